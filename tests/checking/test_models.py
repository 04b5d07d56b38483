"""Two models against each other, with a format that runs the graph in NumPy and keeps its arrays channels-last."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from decascade.algebra.compose import compose
from decascade.algebra.conv import Conv
from decascade.checking.models import Plan, Subject, compare, distance
from decascade.checking.plan import LEAST, MOST, plan, samples_for
from decascade.checking.samples import Range
from decascade.errors import UsageError, VerificationError
from decascade.formats.base import Document
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.interpret import run
from decascade.ir.ops import Activation, Foreign, GlobalPool
from decascade.ir.shapes import infer_graph


@dataclass(frozen=True)
class InNumpy:
    """A "framework": float32 between operations; channels-last; `fails` is what it raises instead."""

    fails: Exception | None = None
    largest: int = 1000
    name: str = "numpy32"
    extensions: tuple[str, ...] = (".np",)

    def run(self, native: Graph, inputs: dict[str, Any]) -> dict[str, Any]:
        if self.fails is not None:
            raise self.fails
        if max(max(x.shape) for x in inputs.values()) > self.largest:
            raise RuntimeError("too large\nfor this framework")
        values = {name: np.moveaxis(x, -1, 1) for name, x in inputs.items()}
        for node in native.nodes:
            part = replace(native, nodes=(node,), inputs=node.inputs, outputs=node.outputs)
            values.update({k: v.astype("f4") for k, v in run(part, {n: values[n] for n in node.inputs}).items()})
        return {n: np.moveaxis(values[n], 1, -1) for n in native.outputs}

    def to_graph(self, document: Document, name: str, array: Any) -> Any:
        return np.moveaxis(array, -1, 1)


def model(*ops: Any, shape: tuple[Any, ...] = ("N", 3, 8, 10), form: Any = None) -> Subject:
    names = ["x", *(f"t{i}" for i in range(len(ops) - 1)), "y"]
    nodes = tuple(Node(f"n{i}", op, (names[i],), (names[i + 1],), (f"n{i}",)) for i, op in enumerate(ops))
    graph = infer_graph(Graph(nodes, ("x",), ("y",), {n: Tensor(n, shape if n == "x" else None) for n in names}))
    return Subject(form or InNumpy(), Document("numpy32", graph, graph))


@pytest.fixture
def layers(rng: np.random.Generator) -> tuple[Conv, Conv]:
    return (
        Conv(rng.standard_normal((16, 3, 3, 3)).astype("f4"), rng.standard_normal(16).astype("f4")),
        Conv(rng.standard_normal((4, 16, 1, 1)).astype("f4"), rng.standard_normal(4).astype("f4")),
    )


def stored(layer: Conv) -> Conv:
    return Conv(layer.weight.astype("f4"), layer.bias64.astype("f4"), layer.stride, layer.dilation, layer.padding)


def test_right_merge_is_the_same_function(layers: tuple[Conv, Conv], rng: np.random.Generator) -> None:
    tail = Activation("relu"), GlobalPool("avg")
    a, b = model(*layers, *tail), model(stored(compose(layers[1], layers[0])), *tail)
    facts = compare(a, b, plan(a, Range(), rng), rng)
    assert facts.same
    assert 0 < facts.max_abs < facts.tolerance
    assert facts.tolerance < 1e-3 * facts.max_abs / facts.max_rel  # a bound, not a licence
    assert facts.by == "framework"
    assert facts.samples == MOST - MOST % 5 + 3 - 5 * (MOST % 5 < 3)
    assert facts.original_fp32_error is not None
    assert facts.merged_fp32_error is not None
    assert facts.exact_error is not None
    assert facts.exact_tolerance is not None
    assert facts.exact_error < facts.exact_tolerance < facts.tolerance
    assert not facts.complaint
    assert facts.fp32_ratio == facts.merged_fp32_error / facts.original_fp32_error


@pytest.mark.parametrize("fault", [1e-3, -3e-4])
def test_wrong_weight_is_found_and_placed(layers: tuple[Conv, Conv], rng: np.random.Generator, fault: float) -> None:
    right = stored(compose(layers[1], layers[0]))
    weight = right.weight.copy()
    weight[2, 0, 1, 1] += fault
    a, b = model(*layers), model(Conv(weight, right.bias))
    facts = compare(a, b, plan(a, Range(), rng), rng)
    assert not facts.same
    assert facts.worst is not None
    assert facts.worst.output == "y"
    assert facts.worst.index[1] == 2
    assert abs(facts.worst.a - facts.worst.b) == pytest.approx(facts.max_abs)
    assert facts.max_abs == pytest.approx(abs(fault), rel=0.2)


def test_without_the_framework_float64_judges(layers: tuple[Conv, Conv], rng: np.random.Generator) -> None:
    missing = InNumpy(ModuleNotFoundError("no", name="runner"))
    a, b = model(*layers, form=missing), model(stored(compose(layers[1], layers[0])), form=missing)
    facts = compare(a, b, plan(a, Range(), rng), rng)
    assert facts.same
    assert facts.by == "float64"
    assert facts.notes == ("runner is not installed",)
    assert facts.unrun == "runner is not installed"
    assert facts.original_fp32_error is None


def test_a_refusal_by_the_framework_is_said(layers: tuple[Conv, Conv], rng: np.random.Generator) -> None:
    form = replace(InNumpy(RuntimeError("no kernel: for Odd")), name="keras")
    a, b = model(*layers, form=form), model(stored(compose(layers[1], layers[0])), form=form)
    facts = compare(a, b, plan(a, Range(), rng), rng)
    assert facts.unrun == "Keras refused the model: no kernel: for Odd"
    assert facts.where == "in float64 (Keras refused the model: no kernel: for Odd)"
    assert facts.where_in_short == "in float64 (Keras refused the model)"


def test_without_float64_the_framework_judges(layers: tuple[Conv, Conv], rng: np.random.Generator) -> None:
    class Runs(InNumpy):
        def run(self, native: Graph, inputs: dict[str, Any]) -> dict[str, Any]:
            known = tuple(replace(n, op=Activation("relu")) if isinstance(n.op, Foreign) else n for n in native.nodes)
            return super().run(replace(native, nodes=known), inputs)

    right = stored(compose(layers[1], layers[0]))
    a, b = model(*layers, Foreign("Odd"), form=Runs()), model(right, Foreign("Odd"), form=Runs())
    facts = compare(a, b, plan(a, Range(), rng), rng)
    assert facts.same
    assert facts.exact_error is None
    wrong = model(Conv(right.weight * np.float32(1.01), right.bias), Foreign("Odd"), form=Runs())
    assert not compare(a, wrong, plan(a, Range(), rng), rng).same


def test_neither_can_run(layers: tuple[Conv, Conv], rng: np.random.Generator) -> None:
    a = model(*layers, Foreign("Odd"), form=InNumpy(RuntimeError("no kernel for Odd\nstack")))
    with pytest.raises(UsageError, match=r"nor in NumPy.*numpy32 refused the model: no kernel for Odd$"):
        plan(a, Range(), rng)


def test_second_model_that_does_not_run(layers: tuple[Conv, Conv], rng: np.random.Generator) -> None:
    a, b = model(*layers), model(*layers, form=InNumpy(RuntimeError("broken\nmore")))
    with pytest.raises(VerificationError, match=r"the second model does not run where the first does: broken$"):
        compare(a, b, plan(a, Range(), rng), rng)


def test_open_sizes_are_tried_in_turn(layers: tuple[Conv, Conv], rng: np.random.Generator) -> None:
    small = model(*layers, shape=("N", 3, "H", "W"), form=InNumpy(largest=100))
    found = plan(small, Range(), rng)
    shapes = {b["x"].shape[1:] for b in found.batches}
    assert shapes == {(3, 32, 64), (3, 37, 74)}
    tiny = model(*layers, Foreign("Odd"), shape=("N", 3, "H", "W"), form=InNumpy(largest=40))
    with pytest.raises(UsageError, match="too large"):
        plan(tiny, Range(), rng)


def test_shapes_that_do_not_correspond(layers: tuple[Conv, Conv], rng: np.random.Generator) -> None:
    a, b = model(*layers), model(*layers, shape=("N", 3, 8, 9))
    with pytest.raises(UsageError, match=r"input x has shapes \(N, 3, 8, 10\) and \(N, 3, 8, 9\)"):
        compare(a, b, Plan([]), rng)


def test_more_work_gets_fewer_samples() -> None:
    assert samples_for(1e3) == MOST
    assert samples_for(1e12) == LEAST
    assert LEAST < samples_for(3e8) < MOST


def test_distance_of_values_that_are_not_finite() -> None:
    inf, nan = np.inf, np.nan
    found = distance(np.array([inf, nan, 1.0, inf, nan]), np.array([inf, nan, 1.5, -inf, 0.0]))
    assert found.tolist() == [0, 0, 0.5, inf, inf]
