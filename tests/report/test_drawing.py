"""The graphs of a report: every operation, its words, and the cascade that it belongs to, before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import decascade as dc
from decascade.algebra.conv import Conv, ConvTranspose
from decascade.api.drawing import graph_facts, kind
from decascade.checking.cascades import check_replacement, error_map
from decascade.formats.registry import format_of
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.ops import Activation, Add, Dense, Foreign, GlobalPool, Op, Pool
from decascade.ir.shapes import infer_graph
from decascade.regions.merge import sized
from decascade.report.facts.parts import GraphFacts
from decascade.report.facts.report import Report

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "digits.onnx"
FIRST = np.ones((4, 2, 3, 3), "f4")


@pytest.fixture(scope="module")
def report() -> Report:
    return dc.merge(EXAMPLE).report


def graphs(report: Report) -> GraphFacts:
    assert report.graphs is not None
    return report.graphs


def test_a_node_stands_behind_what_it_reads(report: Report) -> None:
    for nodes in (graphs(report).before, graphs(report).after):
        assert all(place < i for i, n in enumerate(nodes) for place in n.inputs)
        assert [n.kind for n in nodes].count("input") == [n.kind for n in nodes].count("output") == 1
        assert all(n.inputs for n in nodes if n.kind != "input")


def test_every_cascade_is_found_in_the_graph(report: Report) -> None:
    before, after = graphs(report).before, graphs(report).after
    for i, cascade in enumerate(report.cascades):
        old = [n for n in before if i in n.cascades]
        assert {layer for n in old for layer in n.layers} == set(cascade.layers)
        new = [n for n in after if i in n.cascades]
        if cascade.decision == "left":
            merged = {j for j, c in enumerate(report.cascades) if c.decision == "merged"}
            assert [n.name for n in new] == [n.name for n in old if not merged.intersection(n.cascades)]
        else:
            assert new
            assert not any(n.layers for n in new)
            assert sum(n.cost for n in new) == cascade.cost.after


def test_costs_add_up_and_kept_nodes_are_told(report: Report) -> None:
    before, after = graphs(report).before, graphs(report).after
    assert sum(n.cost for n in before) == report.cost.before
    assert sum(n.cost for n in after) == report.cost.after
    assert sum(n.parameters for n in after) == report.cost.parameters_after
    kept = [n for n in after if n.same is not None]
    assert {n.name for n in kept} == {n.name for n in before} & {n.name for n in after}
    assert all(before[n.same or 0].name == n.name for n in kept)


def test_a_measured_target_is_not_asked_for_single_operations() -> None:
    class Measured:
        name, unit = "dear", "ms"

        def segment_cost(self, *_: Any) -> Any:
            raise AssertionError("measured")

        combine = graph_cost = segment_cost

    graph = sized(format_of(str(EXAMPLE)).read(EXAMPLE).graph)
    found = graph_facts(graph, graph, (), Measured())
    assert found.unit == "MACs"
    assert max(n.cost for n in found.before) == 72 * 72 * 9 * 64


def test_inspect_draws_what_merge_would_make(report: Report) -> None:
    assert dc.inspect(EXAMPLE).graphs == report.graphs


@pytest.mark.parametrize(("op", "words"), [
    (Conv(FIRST, stride=2, dilation=(1, 3)), "3x3 convolution, stride 2, dilation 1x3"),
    (Conv(np.ones((4, 1, 3, 1), "f4"), groups=4), "depthwise 3x1 convolution"),
    (Conv(np.ones((4, 2, 1, 1), "f4"), groups=2), "1x1 convolution, 2 groups"),
    (ConvTranspose(FIRST, stride=(2, 1)), "3x3 transposed convolution, stride 2x1"),
    (Dense(Conv(np.ones((10, 64), "f4"))), "dense 64 to 10"),
    (Pool("max", (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), "max pool 2x2, stride 2"),
    (GlobalPool("avg"), "global average pool"), (Activation("clip", (0.0, 6.0)), "relu6"),
    (Activation("clip", (-1.0, 2.5)), "clip -1 to 2.5"), (Activation("hard_swish"), "hard swish"),
    (Add(), "sum"), (Foreign("Einsum"), "Einsum"),
])
def test_operations_in_words(op: Op, words: str) -> None:
    assert kind(Node("n", op, ("x",), ("y",))) == words


@pytest.mark.parametrize(("size", "at", "cell", "distance"), [
    ((8, 6), (0, 2), (0, 2), 0), ((8, 6), (3, 2), (3, 2), 2), ((40, 40), (20, 33), (8, 13), 4), ((30,), (29,), (0, 15), 0),
    ((4, 8, 8), (1, 2, 5), (2, 5), 1),
])
def test_the_map_shows_where_the_error_is(
    size: tuple[int, ...], at: tuple[int, ...], cell: tuple[int, int], distance: int
) -> None:
    difference = np.zeros((3, 2, *size))
    difference[(1, 1, *at)] = 0.123456
    facts = error_map(difference)
    assert facts is not None
    rows = np.array(facts.rows)
    assert np.argwhere(rows > 0).tolist() == [list(cell)]
    assert facts.size == size
    assert [d for d, e in enumerate(facts.edge) if e > 0] == [distance]
    assert max(rows.shape) <= 16
    assert rows.max() == max(facts.edge) == 0.123


def test_no_map_where_there_is_no_picture() -> None:
    tensors = {"x": Tensor("x", ("N", 3)), "y": Tensor("y", None)}
    layer = Dense(Conv(np.ones((2, 3), "f4")))
    before = infer_graph(Graph((Node("d", layer, ("x",), ("y",), ("d",)),), ("x",), ("y",), tensors))
    facts = check_replacement(before, before, "x", "y", "d")
    assert facts is not None
    assert facts.map is None
