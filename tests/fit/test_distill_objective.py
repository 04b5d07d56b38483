"""The loss by hand, the tensors that are compared, and what is said where no gradient passes."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest

from decascade.algebra.conv import Conv
from decascade.compression.divergence import Output, outputs_of
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.ops import Foreign
from decascade.ir.shapes import infer_graph
from fit.distill_nets import cheaper, net

torch = pytest.importorskip("torch")
Lowered = import_module("decascade.compression.torch_graph.graph").Lowered
module = import_module("decascade.compression.distill.objective")
Objective, Feature, objective, cuts, joined = module.Objective, module.Feature, module.objective, module.cuts, module.joined
X = {"x": torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))}


def normal(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3, 2)])
def test_divergence_of_classes(shape):
    a, b, t = normal(*shape, seed=0), normal(*shape, seed=1), 3.0
    p, q = softmax(b / t), softmax(a / t)
    expected = t * t * (p * np.log(p / q)).sum(1).mean()
    goal = Objective((Output("y", "z", "kl"),), (), {}, t, 0.0)
    values = {"z": torch.tensor(a)}, {"z": torch.tensor(b)}
    assert float(goal(*values, 0.0)) == pytest.approx(expected, rel=1e-5)
    assert float(goal.distance(*values)) == pytest.approx(expected, rel=1e-5)
    assert goal.agreement(*values) == pytest.approx(np.mean(a.argmax(1) == b.argmax(1)))
    assert goal.wanted == ("z",)


def test_regression_and_features():
    a, b = normal(6, 5, seed=0), normal(6, 5, seed=1)
    error = np.square(a - b).mean()
    goal = Objective((Output("y", "y", "mse"),), (Feature("f", 4.0), Feature("g", 2.0, steady=True)), {"y": 0.5}, 3.0, 1.0)
    values = {n: torch.tensor(a) for n in "yfg"}, {n: torch.tensor(b) for n in "yfg"}
    assert float(goal.distance(*values)) == pytest.approx(error / 0.5, rel=1e-5)
    for share in (0.0, 0.25, 1.0):
        expected = error / 0.5 + (1 - share) / 2 * error / 4 + error / 2
        assert float(goal(*values, share)) == pytest.approx(expected, rel=1e-5)
    assert goal.agreement(*values) is None
    assert goal.wanted == ("y", "f", "g")


def test_cuts_are_what_everything_goes_through():
    # within the block two paths are alive, behind the pool nothing has spatial axes
    assert cuts(net()) == ["b", "g"]
    straight = [Node(f"n{i}", Conv(np.ones((1, 1, 1))), (f"t{i}",), (f"t{i + 1}",)) for i in range(20)]
    chain = infer_graph(Graph(tuple(straight), ("t0",), ("t20",), {"t0": Tensor("t0", ("N", 1, 4))}))
    assert cuts(chain) == [f"t{i}" for i in range(1, 20)]


def test_features_are_spread_over_what_both_have():
    graph = net()
    small = cheaper(graph)
    found, notes = objective(Lowered(small), Lowered(graph), outputs_of(graph), X, 3.0, 1.0)
    assert [f.name for f in found.features] == ["b", "g"]
    assert not notes
    values = Lowered(graph).run(X, ("g",))["g"]
    assert found.features[1].variance == pytest.approx(float(values.detach().var(correction=0)))
    assert objective(Lowered(small), Lowered(graph), outputs_of(graph), X, 3.0, 0.0)[0].features == ()
    straight = [Node(f"n{i}", Conv(np.full((1, 1, 1), 2.0)), (f"t{i}",), (f"t{i + 1}",)) for i in range(20)]
    chain = infer_graph(Graph(tuple(straight), ("t0",), ("t20",), {"t0": Tensor("t0", ("N", 1, 4))}))
    many, _ = objective(Lowered(chain), Lowered(chain), outputs_of(chain), {"t0": torch.rand(3, 1, 4)}, 3.0, 1.0)
    assert [f.name for f in many.features] == ["t1", "t5", "t8", "t12", "t15", "t19"]


def rounding() -> Foreign:
    return Foreign("Round", lambda arrays: [np.round(arrays[0])])


def test_what_no_gradient_passes_is_trained_segment_by_segment():
    graph = net(middle=rounding())
    small = Lowered(cheaper(graph))
    found, notes = objective(small, Lowered(graph), outputs_of(graph), X, 3.0, 1.0)
    assert [(f.name, f.steady) for f in found.features] == [("b", False), ("g", True)]
    assert notes == [
        "no gradient passes middle (Round): the layers before are trained segment by segment, on what goes in there"
    ]
    wanted = found.wanted
    loss = found(small.run(X, wanted), Lowered(graph).run(X, wanted), 1.0)
    loss.backward()
    grads = {name: fields["weight"].grad for name, fields in small.weights.items()}
    assert all(g is not None and g.abs().sum() > 0 for g in grads.values())


def test_outputs_that_cannot_be_computed():
    graph = net(middle=Foreign("Mystery"))
    found, notes = objective(Lowered(cheaper(graph)), Lowered(graph), outputs_of(graph), X, 3.0, 1.0)
    assert found.outputs == ()
    assert [(f.name, f.steady) for f in found.features] == [("b", False), ("g", True)]
    assert notes[1] == "output y cannot be computed here: the layers that only it depends on stay as they were fitted"
    values = {n: torch.ones(2, 3) for n in ("b", "g")}, {n: torch.zeros(2, 3) for n in ("b", "g")}
    expected = sum(1 / f.variance for f in found.features)
    assert float(found.distance(*values)) == pytest.approx(expected, rel=1e-5)


def test_a_foreign_operation_before_all_weights_is_in_nobodys_way():
    rest = net()
    first = Node("scale", Foreign("Scale", lambda arrays: [arrays[0] / 2]), ("x",), ("x2",))
    stem = rest.nodes[0]
    nodes = (first, Node(stem.name, stem.op, ("x2",), stem.outputs), *rest.nodes[1:])
    graph = infer_graph(Graph(nodes, ("x",), ("y",), {**rest.tensors, "x2": Tensor("x2", ("N", 3, 8, 8))}))
    found, notes = objective(Lowered(graph), Lowered(graph), outputs_of(graph), X, 3.0, 1.0)
    assert not notes
    assert not any(f.steady for f in found.features)


def test_means_over_batches():
    assert joined([(1.0, 0.5, 3), (2.0, 1.0, 1)]) == (1.25, 0.625)
    assert joined([(1.0, None, 3), (2.0, None, 1)]) == (1.25, None)
