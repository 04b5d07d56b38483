"""Costs from a CSV: looked up by layer, told where they are missing, and followed by merge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from decascade.cost import Cost
from decascade.cost.layers import layer_text
from decascade.cost.table import Table
from decascade.errors import UsageError
from decascade.ir.graph import Graph
from decascade.ir.ops import Activation
from decascade.regions.merge import Options, merge_graph
from laws import Net


def graph() -> Graph:
    net = Net((4, 8, 8))
    return net.graph(net.emit(Activation("relu"), net.conv(net.conv("x", 8, 1), 4, 1)))


def write(path: Path, rows: dict[str, object], unit: str = "ms") -> Path:
    path.write_text("layer,cost,unit\n" + "".join(f'"{k}",{v},{unit}\n' for k, v in rows.items()))
    return path


FIRST, SECOND = "conv 4x8x8 -> 8x8x8 kernel 1x1", "conv 8x8x8 -> 4x8x8 kernel 1x1"
MERGED = "conv 4x8x8 -> 4x8x8 kernel 1x1"


def test_names_in_the_table_are_those_of_the_layers() -> None:
    g = graph()
    assert [layer_text(n, g.tensors) for n in g.nodes[:2]] == [FIRST, SECOND]


def test_costs_are_looked_up_and_activations_are_free(tmp_path: Path) -> None:
    table = Table(write(tmp_path / "t.csv", {FIRST: 2.5, SECOND: 1}))
    assert table.graph_cost(graph()).value == 3.5
    assert (table.unit, table.name) == ("ms", "table:t.csv")
    assert table.combine([Cost(1.0, 1), Cost(2.0, 1)]) == Cost(3.0, 2)


@pytest.mark.parametrize(("cost", "layers"), [(1.0, 1), (9.0, 2), ("", 2)])
def test_merge_follows_the_table(tmp_path: Path, cost: object, layers: int) -> None:
    """On a board whose merged layer is slow, or was not measured, nothing is merged, whatever the multiply-accumulates say."""
    table = Table(write(tmp_path / "t.csv", {FIRST: 2, SECOND: 2, MERGED: cost}))
    merged, _ = merge_graph(graph(), Options(table))
    assert sum(n.op.__class__.__name__ == "Conv" for n in merged.nodes) == layers


def test_own_layer_without_cost_is_told(tmp_path: Path) -> None:
    table = Table(write(tmp_path / "t.csv", {SECOND: 1}))
    with pytest.raises(UsageError, match=rf"has no cost for `{FIRST}`: decascade table --template lists what to measure"):
        table.graph_cost(graph())
    table = Table(write(tmp_path / "u.csv", {MERGED: 1}))
    with pytest.raises(UsageError, match="and 1 more of its layers"):
        table.graph_cost(graph())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("layer;cost\n", "has no columns layer and cost in its first line"),
        ("", "has no columns layer and cost in its first line"),
        ("layer,cost\na,\n", "has no costs yet: fill in its column cost"),
        ("layer,cost\na,1\nb,fast\n", "line 3: cost 'fast' is no number from 0 on"),
        ("layer,cost\na,-1\n", "line 2: cost '-1' is no number from 0 on"),
        ("layer,cost\na,inf\n", "line 2: cost 'inf' is no number from 0 on"),
        ("layer,cost,unit\na,1,ms\nb,1,us\n", r"mixes units \(ms, us\): give all costs in one"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=words):
        Table(path)


def test_table_without_unit_and_with_more_columns(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f'\ufefffile,layer,cost\nx,"{FIRST}",1\ny,"{SECOND}",2\n', encoding="utf-8")
    assert Table(path).unit == "cost"
    assert Table(path).graph_cost(graph()).value == 3


def test_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"t.csv does not exist: check the name"):
        Table(tmp_path / "t.csv")
    (tmp_path / "b.csv").write_bytes(np.arange(256, dtype=np.uint8).tobytes())
    with pytest.raises(UsageError, match=r"b.csv cannot be read: it is not UTF-8 text"):
        Table(tmp_path / "b.csv")
