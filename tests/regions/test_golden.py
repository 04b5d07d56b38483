"""Small merges written out: the graph before, what was decided, the graph after.

A change of these texts is a change of what users get: look at it, then run with DECASCADE_WRITE_GOLDEN=1 to accept it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from decascade.cost import target_named
from decascade.ir.graph import Graph
from decascade.ir.ops import Concat, Flatten, GlobalPool, Select
from decascade.ir.text import to_text
from decascade.regions.merge import Options, merge_graph
from laws import Net, assert_same, inputs_for

FOLDER = Path(__file__).parent / "golden"


def expansion() -> Graph:
    """A linear block as ExpandNets train it: 1×1 wide, 3×3, 1×1 back, no padding inside."""
    net = Net((4, 8, 8))
    name = net.conv(net.conv(net.conv("x", 16, name="widen", pad=1), 16, 3, name="mix"), 4, name="narrow")
    return net.graph(net.relu(name))


def ring() -> Graph:
    """Two padded 3×3."""
    net = Net((3, 16, 16))
    return net.graph(net.conv(net.conv("x", 16, 3, pad=1, name="a"), 4, 3, pad=1, name="b"))


def line() -> Graph:
    """Two padded layers in one dimension: three border classes."""
    net = Net((2, 16))
    return net.graph(net.conv(net.conv("x", 8, 3, pad=1, name="a"), 2, 3, pad=1, name="b"))


def preactivation() -> Graph:
    """ReLU → BN → padded 3×3: the shift of the BN stops at the border."""
    net = Net((4, 8, 8))
    return net.graph(net.conv(net.affine(net.relu("x")), 8, 3, pad=1, name="conv"))


def dynamic() -> Graph:
    """1×1 → padded 3×3 at a size that is only known when the model runs."""
    net = Net((4, "H", "W"))
    return net.graph(net.conv(net.conv("x", 12, name="widen"), 4, 3, pad=1, name="mix"))


def block() -> Graph:
    """Parallel branches, a skip, a shuffle and a strided end."""
    net = Net((4, 9, 9))
    wide, point = net.affine(net.conv("x", 4, 3, pad=1, name="wide")), net.conv("x", 4, name="point")
    summed = net.add(wide, point, "x")
    both = net.emit(Select(np.array([0, 4, 1, 5])), net.emit(Concat(1), summed, net.conv("x", 2, 3, pad=1, name="side")))
    return net.graph(net.relu(net.conv(both, 6, 1, stride=2, name="down")))


def tail() -> Graph:
    """A classifier's end: 1×1, global average, two dense layers."""
    net = Net((8, 4, 4))
    mean = net.emit(Flatten(), net.emit(GlobalPool("avg"), net.conv("x", 32, name="last")))
    return net.graph(net.dense(net.dense(mean, 64), 3))


def mixed() -> Graph:
    """A cascade that pays, one that does not, and one that an output keeps apart."""
    net = Net((4, 10, 10))
    a = net.relu(net.conv(net.conv("x", 24, 3, name="a1"), 4, name="a2"))
    b = net.relu(net.conv(net.conv(a, 1, name="b1"), 8, 3, name="b2"))
    c = net.conv(b, 8, name="c1")
    return net.graph(net.conv(c, 4, name="c2"), c)


CASES: list[tuple[Callable[[], Graph], str, str]] = [
    (expansion, "profitable", "macs"), (ring, "profitable", "macs"), (line, "always", "macs"),
    (preactivation, "profitable", "macs"), (dynamic, "profitable", "macs"), (block, "profitable", "macs"),
    (tail, "profitable", "macs"), (mixed, "profitable", "macs"), (mixed, "always", "macs"), (expansion, "profitable", "memory"),
]


@pytest.mark.parametrize(("make", "policy", "target"), CASES, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_merges_written_out(make, policy, target):
    graph = make()
    new, rows = merge_graph(graph, Options(target_named(target), policy))
    assert_same(graph, new, inputs_for(graph))
    told = [f"{r.decision} {' + '.join(r.layers)}: {r.reason}{f' [{r.border}]' if r.border else ''}" for r in rows]
    text = "\n".join([to_text(graph), "", *told, "", to_text(new), ""])
    path = FOLDER / f"{make.__name__}_{policy}_{target}.txt"
    if os.environ.get("DECASCADE_WRITE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_no_golden_file_is_left_over():
    assert {p.name for p in FOLDER.iterdir()} == {f"{make.__name__}_{policy}_{target}.txt" for make, policy, target in CASES}
