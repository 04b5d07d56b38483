"""Ranges equalised across layers: the same function, and closer in int8 where channels differ widely."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cascades import random_input
from decascade.algebra.conv import Conv
from decascade.cost.folding import folded
from decascade.deploy.tflite.equalise import equalised, find_pairs, scales
from decascade.ir.graph import Graph, Node
from decascade.ir.interpret import run
from decascade.ir.ops import Activation, Add, Dense, Flatten, GlobalPool, Op, Pool
from deploy.small import MODELS, graph_of, net


def weight(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))


def two(
    rng: np.random.Generator, between: Op | None, second: Op | None = None, spread: float = 2.0, head: Op | None = None
) -> Graph:
    """conv → between → conv → average → head (dense), the first one's channels of ranges over `spread` decades."""
    rows = np.logspace(-spread / 2, spread / 2, 6).reshape(-1, 1, 1, 1)
    first = Conv(weight(rng, 6, 3, 3, 3) * rows, rng.normal(size=6) * rows.ravel(), 1, 1, 1)
    last = second if second is not None else Conv(weight(rng, 4, 6, 3, 3), None, 1, 1, 1)
    nodes = [Node("a", first, ("x",), ("t1",))]
    if between is not None:
        nodes.append(Node("r", between, ("t1",), ("t2",)))
    nodes += [Node("b", last, (nodes[-1].output,), ("t3",)), Node("p", GlobalPool("avg", False), ("t3",), ("t4",))]
    head = head or Dense(Conv(weight(rng, 5, last.out_channels)))  # type: ignore[union-attr]
    nodes.append(Node("d", head, ("t4",), ("y",)))
    return graph_of(nodes, ("N", 3, 8, 8))


BETWEEN: dict[str, tuple[Op | None, int]] = {
    "relu": (Activation("relu"), 1),
    "leaky": (Activation("leaky_relu", (0.1,)), 1),
    "prelu": (Activation("prelu", (), np.linspace(-0.5, 0.5, 6)), 1),
    "nothing": (None, 1),
    "relu6": (Activation("clip", (0.0, 6.0)), 0),
    "sigmoid": (Activation("sigmoid"), 0),
    "pool": (Pool("max", (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), 0),
}


@pytest.mark.parametrize("case", BETWEEN)
def test_what_commutes_with_a_scale(case: str, rng: np.random.Generator) -> None:
    between, count = BETWEEN[case]
    graph = two(rng, between)
    inputs = random_input(graph, rng, 4)
    made, pairs = equalised(graph, [inputs])
    assert pairs == count
    before, after = run(graph, inputs)["y"], run(made, inputs)["y"]
    assert np.abs(before - after).max() <= 1e-12 * np.abs(before).max()
    if count:
        assert np.abs(made.nodes[0].op.weight - graph.nodes[0].op.weight).max() > 0  # type: ignore[union-attr]


@pytest.mark.parametrize(("groups", "out"), [(6, 6), (6, 12), (2, 4)])
def test_grouped_second_layers(groups: int, out: int, rng: np.random.Generator) -> None:
    graph = two(rng, Activation("relu"), Conv(weight(rng, out, 6 // groups, 3, 3), None, 1, 1, 1, groups))
    inputs = random_input(graph, rng, 4)
    made, pairs = equalised(graph, [inputs])
    assert pairs == 1
    before = run(graph, inputs)["y"]
    assert np.abs(before - run(made, inputs)["y"]).max() <= 1e-12 * np.abs(before).max()


def test_behind_a_depthwise_kernel_all_ranges_are_the_same(rng: np.random.Generator) -> None:
    graph = two(rng, Activation("relu"), Conv(weight(rng, 6, 1, 3, 3), None, 1, 1, 1, 6), spread=3.0)
    inputs = random_input(graph, rng, 8)
    made, _ = equalised(graph, [inputs])
    ranges = run(made, inputs, keep=["t2"])["t2"].max(axis=(0, 2, 3))
    before = run(graph, inputs, keep=["t2"])["t2"].max(axis=(0, 2, 3))
    assert before.max() / before.min() > 30
    np.testing.assert_allclose(ranges, ranges[0], rtol=1e-9)


def test_scales_are_positive_and_leave_the_dead_alone(rng: np.random.Generator) -> None:
    kernel = weight(rng, 4, 5, 1, 1)
    kernel[:, 1] = 0
    found = scales(np.array([0.0, 1.0, 1e-9, 1.0, 1e9]), Node("b", Conv(kernel), ("x",), ("y",)))
    assert found[0] == found[1] == 1
    assert (found > 0).all()
    assert found.max() / found.min() <= 1e3 * (1 + 1e-12)
    np.testing.assert_array_equal(scales(np.zeros(5), Node("b", Conv(kernel), ("x",), ("y",))), np.ones(5))


def test_dense_layers_one_after_the_other(rng: np.random.Generator) -> None:
    nodes = [Node("a", Dense(Conv(weight(rng, 6, 8), rng.normal(size=6))), ("x",), ("t",)),
             Node("r", Activation("relu"), ("t",), ("u",)), Node("b", Dense(Conv(weight(rng, 3, 6))), ("u",), ("y",))]
    graph = graph_of(nodes, ("N", 8))
    inputs = random_input(graph, rng, 6)
    made, pairs = equalised(graph, [inputs])
    assert pairs == 1
    np.testing.assert_allclose(run(made, inputs)["y"], run(graph, inputs)["y"], rtol=1e-10)


def test_what_anything_else_reads_is_left_alone(rng: np.random.Generator) -> None:
    graph = folded(two(rng, Activation("relu")))
    assert len(find_pairs(graph)) == 1
    assert not find_pairs(replace(graph, outputs=("t2", "y")))
    a, b = (Node(n, Conv(weight(rng, 3, 3, 1, 1)), (i,), (o,)) for n, i, o in (("a", "x", "t"), ("b", "t", "u")))
    skip = graph_of([a, b, Node("s", Add(), ("t", "u"), ("y",))], ("N", 3, 4, 4))
    assert not find_pairs(skip)
    flat = graph_of([Node("a", Conv(weight(rng, 3, 3, 1, 1)), ("x",), ("t",)), Node("f", Flatten(), ("t",), ("u",)),
                     Node("d", Dense(Conv(weight(rng, 2, 48))), ("u",), ("y",))], ("N", 3, 4, 4))
    assert not find_pairs(flat)
    on_maps = graph_of([Node("a", Dense(Conv(weight(rng, 3, 4))), ("x",), ("t",)),
                        Node("b", Dense(Conv(weight(rng, 2, 3))), ("t",), ("y",))], ("N", 3, 4, 4))
    assert not find_pairs(on_maps)
    assert equalised(flat, [random_input(flat, rng)])[1] == 0


def test_network_without_pairs_stays(rng: np.random.Generator) -> None:
    graph = net(rng)
    assert equalised(graph, [random_input(graph, rng)])[1] == 0


def test_export_keeps_what_is_closer_and_says_so(tmp_path: Path, rng: np.random.Generator) -> None:
    for name in ("tensorflow", "ai_edge_litert", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install decascade[device]")
    onnx = pytest.importorskip("onnx")
    import decascade as dc
    from decascade.deploy.onnx.model import onnx_of

    # every channel matters as much as any other behind the second layer, whatever its range is in between
    rows = np.logspace(-1.5, 1.5, 6).reshape(-1, 1, 1, 1)
    # no dense layer at the end: a file whose dense layers LiteRT and TFLM round differently is written in another form
    second = Conv(weight(rng, 6, 1, 3, 3) / rows, None, 1, 1, 1, 6)
    graph = two(rng, Activation("relu"), second, spread=3.0, head=Activation("relu"))
    path = tmp_path / "m.onnx"
    onnx.save_model(onnx_of(graph, None).proto(), str(path))
    x = rng.uniform(-1, 1, (40, 3, 8, 8)).astype(np.float32)
    plain = dc.export(path, tmp_path / "a.tflite", int8=True, data=x, equalise=False)
    closer = dc.export(path, tmp_path / "b.tflite", int8=True, data=x)
    assert plain.equalised is None
    facts, fidelity = closer.equalised, closer.fidelity
    assert facts is not None
    assert fidelity is not None
    assert plain.fidelity is not None
    assert facts.pairs == 1
    assert facts.rms_before == pytest.approx(plain.fidelity.rms_rel, rel=1e-6)
    assert facts.kept == (facts.rms_after < facts.rms_before and (facts.agreement_after or 0) >= (facts.agreement_before or 0))
    assert fidelity.rms_rel == pytest.approx(facts.rms_after if facts.kept else facts.rms_before, rel=1e-6)
    assert "equalised" in str(closer)
    assert facts.rms_after < facts.rms_before


@pytest.mark.skipif(not MODELS.exists(), reason="the published models are not beside the checkout")
def test_published_mobilenet_has_pairs_everywhere() -> None:
    pytest.importorskip("keras", reason="Keras is not installed")
    from decascade.formats.registry import format_of

    path = MODELS / "mlperf_tiny_vww_mobilenetv1_96.h5"
    assert len(find_pairs(folded(format_of(path).read(path).graph))) == 26
