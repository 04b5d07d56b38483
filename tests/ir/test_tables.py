"""No operation is forgotten in a table, and none that a backend does not know fares worse there than `Foreign`."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, get_args

import numpy as np
import pytest

import decascade
from decascade.algebra.conv import Conv
from decascade.bounds.backward import Tracer, neuron_bounds
from decascade.bounds.box import Box, Interval
from decascade.bounds.geometry import Classes
from decascade.bounds.interval import propagate
from decascade.checking.rounding import run_rounded
from decascade.cost import target_named
from decascade.ir.graph import Graph, Node
from decascade.ir.interpret import evaluate, run
from decascade.ir.ops import DEFINITIONS, Activation, Foreign, Op, Select, Upsample
from decascade.ir.ops.definition import Definition
from decascade.ir.ops.rules import same_shape, unary
from decascade.ir.ops.table import Table
from decascade.ir.ops.traits import moves_values, weights
from decascade.regions.merge import Options, merge_graph
from laws import Net

NOT_MODULES = ("decascade.__main__", "decascade.deploy.tflite.tflm_worker")
"""Programs, which run when they are imported."""
for found in pkgutil.walk_packages(decascade.__path__, "decascade."):
    if found.name not in NOT_MODULES:
        import_module(found.name)
MEMBERS = get_args(Op)
TABLES = list(Table.known)


def test_every_operation_is_defined() -> None:
    assert set(DEFINITIONS) == set(MEMBERS)


def test_the_tables_are_found() -> None:
    names = {table.name for table in TABLES}
    assert len(names) == len(TABLES)
    assert {"new ONNX nodes", "new Keras layers", "new PyTorch modules", "training", "the export to TFLite", "the regions",
            "the interval bounds", "linear forms traced back", "the rounding of results"} <= names


def missing(table: Table[Any]) -> list[str]:
    """The operations of which a table says nothing, or two things."""
    wrong = list[str]()
    for kind in MEMBERS:
        ruled, reason = kind in table.rules, table.refused.get(kind, "")
        follows = table._derived is not None and DEFINITIONS[kind].moves and not ruled and kind not in table.refused
        if ruled + bool(reason) + follows != 1:
            wrong.append(kind.__name__)
    return wrong


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.name)
def test_every_operation_has_a_rule_or_a_reason(table: Table[Any]) -> None:
    assert missing(table) == []
    assert set(table.rules) | set(table.refused) <= set(MEMBERS)
    assert all(len(reason) > 5 for reason in table.refused.values())


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.name)
def test_a_forgotten_entry_is_found(table: Table[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    kind = next(k for k in table.rules if not DEFINITIONS[k].moves)
    monkeypatch.delitem(table.rules, kind)
    assert missing(table) == [kind.__name__]


@dataclass(frozen=True)
class Reversed:
    """The channels in reverse: an operation that is defined and that no table has heard of."""


@dataclass(frozen=True)
class Halved:
    """Half of every value: linear, but nothing says how."""


def _halves(_: Halved, arrays: Any) -> Any:
    return arrays[0] / 2


def _reverses(_: Reversed, arrays: Any) -> Any:
    return arrays[0][:, ::-1]


NEW: dict[type[Any], Definition] = {
    Reversed: Definition(unary(same_shape), _reverses, "reversed channels", linear=True, moves=True),
    Halved: Definition(unary(same_shape), _halves, "halved", linear=True),
}
SAMPLES: list[Any] = [
    Reversed(), Halved(), Upsample((2, 2)), Select(np.array([3, 1, 2, 0])), Activation("relu"),
    Conv(np.ones((4, 1, 3, 3)), groups=4),
]


@pytest.fixture(params=SAMPLES, ids=lambda op: type(op).__name__)
def unknown(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An operation that is defined, while no backend knows it."""
    op = request.param
    for kind, definition in NEW.items():
        monkeypatch.setitem(DEFINITIONS, kind, definition)  # type: ignore[arg-type]
    for table in TABLES:
        monkeypatch.delitem(table.rules, type(op), raising=False)
    return op


def net(op: Any) -> tuple[Graph, Graph]:
    """Two convolutions, the operation, two convolutions and a ReLU; and the same with the operation as a Foreign."""
    # its own convolutions are of a class that is known
    made = Net((3, 8, 8))
    name = made.affine(made.affine("x")) if isinstance(op, Conv) else made.conv(made.conv("x", 6, 1), 4, 3, bias=False)
    name = made.conv(name, 4, 1) if isinstance(op, Conv) else name
    middle = made.emit(op, name, name="middle")
    last = made.affine(made.affine(middle)) if isinstance(op, Conv) else made.conv(made.conv(middle, 6, 1), 2, 3, bias=False)
    graph = made.graph(made.affine(last) if isinstance(op, Activation) else made.relu(last))
    foreign = Foreign("Middle", lambda arrays: evaluate(op, arrays))
    return graph, replace(graph, nodes=tuple(replace(n, op=foreign) if n.op is op else n for n in graph.nodes))


def box_of(graph: Graph) -> Box:
    return Box({"x": Interval(np.zeros((1, 1, 1)), np.ones((1, 1, 1)))})


def test_its_cascades_merge_as_much(unknown: Any) -> None:
    known, foreign = (merge_graph(g, Options(target_named("macs"), "always"))[0] for g in net(unknown))
    assert len(known.nodes) <= len(foreign.nodes)
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8))
    for name in known.outputs:
        np.testing.assert_allclose(run(known, {"x": x})[name], run(foreign, {"x": x})[name], rtol=1e-5, atol=1e-6)


def test_its_bounds_are_as_tight(unknown: Any) -> None:
    graphs = net(unknown)
    box = box_of(graphs[0])
    known, foreign = (propagate(g, box) for g in graphs)
    for name in known:
        assert np.all(known[name].lo >= foreign[name].lo), name
        assert np.all(known[name].hi <= foreign[name].hi), name
    last = graphs[0].outputs[0]
    corner = (0,) * (known[last].lo.ndim - 1)
    low, high = neuron_bounds(Tracer(graphs[0], known), last, [0, 1], corner)
    foreign_low, foreign_high = neuron_bounds(Tracer(graphs[1], foreign), last, [0, 1], corner)
    assert np.all(low >= foreign_low)
    assert np.all(high <= foreign_high)
    assert Classes().of(graphs[0], box).keys() == known.keys()


def test_its_rounding_is_known_as_well(unknown: Any) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    known, foreign = (run_rounded(g, {"x": x}, np.random.default_rng(0)) for g in net(unknown))
    if moves_values(unknown) or weights(unknown):
        assert all(np.isfinite(list(known.computed.values())))  # other errors than those of a Foreign
    else:
        assert known.computed == pytest.approx(foreign.computed, rel=0.05)


def test_it_is_trained_and_compressed_as_well(unknown: Any) -> None:
    torch = pytest.importorskip("torch")
    from decascade.compression.distill.objective import blocks, cuts
    from decascade.compression.segments import find_segments
    from decascade.compression.torch_graph.graph import Lowered

    graphs = net(unknown)
    known, foreign = (find_segments(g, 6) for g in graphs)
    assert {(s.entry, s.exit) for s in foreign} <= {(s.entry, s.exit) for s in known}
    lowered = [Lowered(g) for g in graphs]
    x = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        a, b = (low.module(x) for low in lowered)
    assert torch.allclose(a, b, atol=1e-6)
    end = graphs[0].outputs[0]
    assert lowered[0].differentiable("x", end) >= lowered[1].differentiable("x", end)
    assert lowered[0].computable(end)
    assert [n.name for n in blocks(lowered[0])] == [n.name for n in blocks(lowered[1])]
    assert set(cuts(graphs[1])) <= set(cuts(graphs[0]))


def test_it_is_exported_as_the_format_says(unknown: Any) -> None:
    pytest.importorskip("tensorflow")
    from decascade.deploy.tflite.graph import trace_graph
    from decascade.errors import UsageError

    carried = list[str]()

    def lower(tf: Any, node: Node, xs: Any) -> Any:
        carried.append(node.name)
        shape = graph.shape(node.output)
        assert shape is not None
        return tf.zeros((1, *shape[2:], shape[1]))

    for graph in net(unknown):
        if not isinstance(unknown, Conv):
            trace_graph(graph, foreign=lower)
            assert carried.pop() == "middle"
        with pytest.raises(UsageError, match="so it cannot be exported to TFLite from here"):
            trace_graph(graph)
