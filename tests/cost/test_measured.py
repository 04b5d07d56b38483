"""Layers in words, models of them alone, the cache, and targets that measure: with a meter whose numbers are known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decascade.algebra.conv import Conv, ConvTranspose
from decascade.cost import Cost, target_named
from decascade.cost.base import Target
from decascade.cost.cache import Cache, cache_path
from decascade.cost.count import macs
from decascade.cost.flash import Flash
from decascade.cost.layers import layer_text, signature, standalone
from decascade.cost.measured import Measured, highest
from decascade.cost.weighted import Weighted
from decascade.errors import OutputError, UsageError
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.interpret import run
from decascade.ir.ops import (
    Activation,
    Add,
    Affine,
    BiasMap,
    Concat,
    Dense,
    Flatten,
    Foreign,
    Identity,
    Op,
    Pad,
    Pool,
    Product,
    Select,
    Slice,
    Upsample,
)
from decascade.regions.merge import Options, merge_graph, sized
from laws import Net


class Scales:
    """A meter that weighs multiply-accumulates, known to ± `width`; it refuses kernels wider than `widest`."""

    name, unit = "scales", "grams"

    def __init__(self, width: float = 0.0, widest: int = 99) -> None:
        self.width, self.widest = width, widest
        self.weighed: list[str] = []

    @property
    def identity(self) -> str:
        return f"scales {self.width}"

    def measure(self, graph: Graph) -> tuple[float, float]:
        if any(isinstance(n.op, Conv) and max(n.op.kernel) > self.widest for n in graph.nodes):
            raise UsageError(f"no kernel wider than {self.widest}")
        self.weighed.append(signature(graph.nodes, graph.tensors))
        return float(sum(macs(n, graph.tensors) for n in graph.nodes)), self.width


def target(tmp_path: Path, meter: Scales | None = None) -> Measured:
    return Measured(meter or Scales(), cache=Cache(tmp_path / "m.json"))


def one(op: Op, shape: tuple[int | str, ...]) -> tuple[Node, Graph]:
    net = Net(shape)
    graph = net.graph(net.emit(op, *["x"] * (2 if isinstance(op, (Add, Product, Concat)) else 1)))
    return graph.nodes[0], graph


@pytest.mark.parametrize(
    ("op", "shape", "text"),
    [
        (Conv(np.ones((8, 3, 3, 3)), np.zeros(8), 2, 1, 1), (3, 10, 10),
         "conv 3x10x10 -> 8x5x5 kernel 3x3 stride 2x2 padding 1,1;1,1"),
        (Conv(np.ones((4, 1, 3)), None, 1, 2, 0, 4), (4, 10), "conv 4x10 -> 4x6 kernel 3 dilation 2 groups 4"),
        (ConvTranspose(np.ones((3, 8, 2, 2)), None, 2), (3, 5, 5), "convtranspose 3x5x5 -> 8x10x10 kernel 2x2 stride 2x2"),
        (Dense(Conv(np.ones((7, 5)), np.zeros(7))), (5,), "dense 5 -> 7"),
        (Affine(np.full(4, 2.0), np.zeros(4)), (4, 9), "affine 4x9 -> 4x9 scale"),
        (BiasMap(np.ones((4, 9))), (4, 9), "biasmap 4x9 -> 4x9"),
        (Activation("clip", (0.0, 6.0)), (4, 9), "clip 4x9 -> 4x9 0 6"),
        (Pool("avg", (3,), (1,), ((1, 1),), (1,), True), (4, 9),
         "pool 4x9 -> 4x9 kind avg kernel (3,) stride (1,) padding ((1,1),) dilation (1,) count_padding True"),
        (Add(), (4, 9), "add 4x9 + 4x9 -> 4x9"),
        (Product(), (4, 9), "product 4x9 + 4x9 -> 4x9"),
        (Concat(1), (4, 9), "concat 4x9 + 4x9 -> 8x9 axis 1"),
        (Select(np.arange(1, 3)), (4, 9), "select 4x9 -> 2x9 channels 1:3"),
        (Select(np.array([2, 0])), (4, 9), "select 4x9 -> 2x9 channels 2,0"),
        (Slice(2, 0, 4), (4, 9), "slice 4x9 -> 4x4 axis 2 stop 4"),
        (Upsample((2,)), (4, 9), "upsample 4x9 -> 4x18 factor (2,)"),
    ],
)
def test_layers_in_words(op: Op, shape: tuple[int, ...], text: str) -> None:
    node, graph = one(op, shape)
    assert layer_text(node, graph.tensors) == text


def chain(*channels: int, size: int = 8) -> Graph:
    net = Net((channels[0], size, size))
    value = "x"
    for wide in channels[1:]:
        value = net.conv(value, wide, 1)
    return net.graph(value)


def test_signature_knows_no_names_and_no_weights() -> None:
    a, b = chain(3, 4, 5), chain(3, 4, 5)
    assert signature(a.nodes, a.tensors) == signature(b.nodes, b.tensors)
    assert signature(a.nodes, a.tensors) != signature(chain(3, 5, 5).nodes, chain(3, 5, 5).tensors)


def test_signature_tells_a_skip_from_a_chain() -> None:
    def summed(skip: bool) -> str:
        net = Net((4, 6, 6))
        first = net.conv("x", 4, 1)
        second = net.conv(first, 4, 1)
        graph = net.graph(net.emit(Add(), second, first if skip else "x"))
        return signature(graph.nodes, graph.tensors)

    assert summed(True) != summed(False)


def test_layers_alone_make_a_model_that_runs() -> None:
    net = Net((4, "H", "W"))
    value = net.emit(Activation("prelu", (), np.ones(4)), net.conv("x", 4, 3))
    graph = sized(net.graph(net.emit(Affine(np.full(4, 2.0), np.ones(4)), value)))
    alone = standalone(graph.nodes[1:], graph.tensors)
    assert alone.inputs == graph.nodes[1].inputs
    found = run(alone, {alone.inputs[0]: np.ones([1, *(n for n in alone.shape(alone.inputs[0])[1:])])})
    assert np.isfinite(found[alone.outputs[0]]).all()


def test_placeholders_get_weights_and_what_is_not_understood_is_left_out() -> None:
    weight = np.broadcast_to(np.float32(0), (4, 3, 3, 3))
    nodes = [Node("c", Conv(weight, None), ("x",), ("t",)), Node("f", Foreign("Melt"), ("t",), ("u",)),
             Node("r", Activation("relu"), ("u",), ("y",))]
    shapes = {"x": (1, 3, 8, 8), "t": (1, 4, 6, 6), "u": (1, 4, 6, 6), "y": (1, 4, 6, 6)}
    alone = standalone(nodes, {name: Tensor(name, shape) for name, shape in shapes.items()})
    assert [n.name for n in alone.nodes] == ["c", "r"]
    assert alone.inputs == ("x", "u")
    assert alone.nodes[0].op.weight.std() > 0.1  # type: ignore[union-attr]


def test_a_run_is_measured_once_and_kept(tmp_path: Path) -> None:
    meter, told = Scales(), list[str]()
    graph = chain(3, 4, 5)
    first = Measured(meter, cache=Cache(tmp_path / "m.json"), told=told.append)
    assert first.graph_cost(graph).value == first.graph_cost(graph).value == 64 * (12 + 20)
    again = Measured(Scales(), cache=Cache(tmp_path / "m.json"))
    assert again.graph_cost(graph).value == 64 * (12 + 20)
    assert len(meter.weighed) == 1
    assert told == ["measuring layers for scales"]
    assert again.name == "scales"
    assert again.unit == "grams"


def test_views_cost_nothing(tmp_path: Path) -> None:
    net = Net((3, 4, 4))
    graph = net.graph(net.emit(Flatten(), net.emit(Identity(), "x")))
    meter = Scales()
    assert target(tmp_path, meter).graph_cost(graph) == Cost(0.0)
    assert not meter.weighed


def test_normalisations_are_folded_before_anything_is_measured(tmp_path: Path) -> None:
    """What only folds one costs the same as before, to the last digit: it is no choice to be measured."""
    net = Net((3, 8, 8))
    graph = net.graph(net.emit(Affine(np.full(4, 2.0), np.ones(4)), net.conv("x", 4, 3)))
    meter = Scales(width=5.0)
    measured = target(tmp_path, meter)
    assert measured.graph_cost(graph).value == target_named("macs").graph_cost(graph).value
    assert len(meter.weighed) == 1
    assert "affine" not in meter.weighed[0]


def test_new_layers_are_charged_the_upper_end_and_own_ones_the_lower(tmp_path: Path) -> None:
    graph = chain(3, 4)
    measured = target(tmp_path, Scales(width=10.0))
    value = measured.graph_cost(graph)
    assert (value.value, value.width) == (64 * 12, 10.0)
    assert measured.segment_cost(graph.nodes, graph.tensors).value == 64 * 12 - 10
    other = chain(3, 5)
    made = replace(other.nodes[0], origin=())
    assert measured.segment_cost([made], other.tensors).value == 64 * 15 + 10
    alike = replace(graph.nodes[0], origin=())
    assert measured.segment_cost([alike], graph.tensors).value == 64 * 12 - 10  # as a layer of the model: what that one costs


def test_gain_within_the_noise_is_none(tmp_path: Path) -> None:
    """4 → 8 → 4 channels as one layer saves 48 of 64 multiply-accumulates a position: chosen if it is sure, not else."""
    graph = chain(4, 8, 4)
    for width, layers in ((0.0, 1), (2000.0, 2)):
        measured = Measured(Scales(width), cache=Cache(tmp_path / f"{width}.json"))
        merged, _ = merge_graph(graph, Options(measured))
        assert len(merged.nodes) == layers


def test_what_the_tool_cannot_run_is_not_chosen_and_not_costed(tmp_path: Path) -> None:
    net = Net((3, 8, 8))
    graph = net.graph(net.conv(net.conv("x", 16, 3), 3, 3))
    able, unable = target(tmp_path / "a"), target(tmp_path / "b", Scales(widest=3))
    assert len(merge_graph(graph, Options(able))[0].nodes) == 1
    assert len(merge_graph(graph, Options(unable))[0].nodes) == 2
    with pytest.raises(UsageError, match="no kernel wider than 2"):
        target(tmp_path / "c", Scales(widest=2)).segment_cost(graph.nodes, graph.tensors)


class Runs(Scales):
    """A meter that runs what it is given, and refuses what comes out in another size than it says."""

    def measure(self, graph: Graph) -> tuple[float, float]:
        shapes = {name: [n if isinstance(n, int) else 1 for n in graph.shape(name) or ()] for name in graph.tensors}
        found = run(graph, {name: np.zeros(shapes[name]) for name in graph.inputs})
        if any(list(found[name].shape) != shapes[name] for name in graph.outputs):
            raise UsageError("not of the size that it says")
        return super().measure(graph)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("pads", [((1, 1), (1, 1)), ((0, 1), (0, 1)), ((2, 0), (0, 0)), ((-1, -2), (0, -3))])
def test_sketches_can_be_run(tmp_path: Path, pads: Any, stride: int) -> None:
    net = Net((3, 12, 13))
    graph = net.graph(net.conv(net.emit(Pad(pads), "x"), 4, 3, stride=stride))
    assert len(merge_graph(graph, Options(target_named("macs")))[0].nodes) == 1
    assert len(merge_graph(graph, Options(target(tmp_path, Runs())))[0].nodes) == 1


def test_peaks_do_not_add_up(tmp_path: Path) -> None:
    peaks = Measured(Scales(), highest, Cache(tmp_path / "m.json"))
    assert peaks.combine([Cost(3.0, 1), Cost(5.0, 2)]) == Cost(5.0, 3)
    assert target(tmp_path).combine([Cost(3.0, 1), Cost(5.0, 2)]) == Cost(8.0, 3)


def test_whole_that_exceeds_only_within_its_interval_does_not_exceed() -> None:
    assert Cost(10.0, width=2.0).exceeds(Cost(7.0))
    assert not Cost(10.0, width=2.0).exceeds(Cost(9.0, width=1.5))
    assert Cost(10.0, 3).exceeds(Cost(10.0, 2))
    assert not Cost(10.0, 2).exceeds(Cost(10.0, 2))


def test_cache_survives_nonsense_and_other_writers(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "m.json"
    one_cache, other = Cache(path), Cache(path)
    one_cache.put("meter", "a", 1.5, 0.1)
    other.put("meter", "b", 2.5, 0.0)
    assert Cache(path).get("meter", "a") == (1.5, 0.1)
    assert Cache(path).get("meter", "b") == (2.5, 0.0)
    assert Cache(path).get("meter", "c") is None
    path.write_text(json.dumps({"meter": {"k": "x"}, "other": 3}))
    assert Cache(path).get("meter", "k") is None
    path.write_text("{nonsense")
    broken = Cache(path)
    assert broken.get("meter", "a") is None
    broken.put("meter", "a", 3.0, 0.0)
    assert Cache(path).get("meter", "a") == (3.0, 0.0)
    assert list(path.parent.iterdir()) == [path]


def test_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"measurements cannot be kept in .*; set DECASCADE_CACHE to another file"):
        Cache(tmp_path / "file" / "m.json").put("meter", "a", 1.0, 0.0)


def test_where_measurements_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DECASCADE_CACHE", str(tmp_path / "x.json"))
    assert cache_path() == tmp_path / "x.json"
    monkeypatch.delenv("DECASCADE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_path() == tmp_path / "decascade" / "measurements.json"


def test_flash_by_hand() -> None:
    net = Net((3, 8, 8))
    value = net.emit(Conv(np.ones((4, 3, 3, 3)), np.ones(4)), "x")
    value = net.emit(BiasMap(np.ones((4, 6, 6))), value)
    graph = net.graph(net.emit(Dense(Conv(np.ones((5, 144)))), net.emit(Flatten(), value)))
    # int8: kernel bytes, a bias of four bytes and a scale of four per output channel; no bias in the dense layer
    assert Flash().graph_cost(graph).value == (108 + 8 * 4) + 144 + (720 + 4 * 5)
    assert Flash(int8=False).graph_cost(graph).value == 4 * (108 + 4 + 144 + 720)
    assert Flash().combine([Cost(1.0, 1), Cost(2.0, 1)]) == Cost(3.0, 2)
    assert (Flash().name, Flash(False).name) == ("flash", "flash:float")


def test_weighted_sums_keep_peaks_as_peaks() -> None:
    net = Net((3, 8, 8))
    graph = net.graph(net.conv(net.conv("x", 4, 1), 2, 1))
    terms: list[tuple[float, Target]] = [(1.0, target_named("macs")), (0.5, target_named("memory"))]
    both = Weighted(terms)
    costs = [both.segment_cost([n], graph.tensors) for n in graph.nodes]
    memory = [4 * 64 * 7, 4 * 64 * 6]
    assert [c.value for c in costs] == [64 * 12 + 0.5 * memory[0], 64 * 8 + 0.5 * memory[1]]
    assert both.combine(costs).value == 64 * 20 + 0.5 * max(memory)
    assert both.graph_cost(graph).value == 64 * 20 + 0.5 * target_named("memory").graph_cost(graph).value
    assert both.name == "1*macs + 0.5*memory"
    assert both.unit == "1 MACs + 0.5 bytes"
    assert both.combine([]).value == 0


def test_weighted_sum_shows_whether_it_adds_up() -> None:
    adding = Weighted([(2.0, target_named("macs")), (1.0, Flash())])
    assert adding.combine([Cost(1.0), Cost(1.0)]).value == pytest.approx(2.0)
    peaking = Weighted([(1.0, target_named("macs")), (1.0, target_named("memory"))])
    assert peaking.combine([Cost(1.0), Cost(1.0)]).value < 2.0
