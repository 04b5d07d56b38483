"""Graphs by hand, and the tolerance within which two graphs are the same function.

The tolerance comes from the arithmetic.  A sum of n products in any order is off by at most n·ε·Σ|w||x|; so a graph run
with the absolute values of all its weights on the absolute values of its inputs tells how large Σ|w||x| is at its
outputs, and the fan-ins of its layers together are more terms than any one path adds up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np

from decascade.algebra.conv import Conv, ConvTranspose, crop_or_pad
from decascade.cost import target_named
from decascade.cost.count import parameters
from decascade.ir.check import check
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
    GlobalPool,
    Identity,
    Op,
    Pad,
    Pool,
    Select,
    Slice,
    Upsample,
)
from decascade.ir.shapes import infer_graph
from decascade.regions.merge import Cascade, sized

EPS = float(np.finfo(np.float64).eps)


@dataclass
class Net:
    """Grows a graph node by node; methods take and return names of tensors.  `shape` is that of the input "x".

    Weights are small random numbers of a fixed seed, so that golden texts stay.
    """

    shape: tuple[int | str, ...]
    dtype: str = "float32"
    nodes: list[Node] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def __post_init__(self) -> None:
        self.tensors = {"x": Tensor("x", ("N", *self.shape), self.dtype)}

    @property
    def rank(self) -> int:
        return len(self.shape) - 1

    def channels(self, name: str) -> int:
        shape = self.graph(name).shape(name)
        assert shape is not None
        assert isinstance(shape[1], int)
        return shape[1]

    def graph(self, *outputs: str) -> Graph:
        graph = infer_graph(Graph(tuple(self.nodes), ("x",), outputs, self.tensors))
        check(graph)
        return graph

    def emit(self, op: Op, *inputs: str, name: str = "", pinned: str = "") -> str:
        name = name or f"{type(op).__name__.lower()}{len(self.nodes)}"
        self.nodes.append(Node(name, op, inputs, (name,), (name,), pinned))
        return name

    def weights(self, *shape: int) -> np.ndarray:
        return (self.rng.standard_normal(shape) * prod(shape[1:]) ** -0.5).astype(self.dtype)

    def vector(self, size: int, scale: float = 0.5) -> np.ndarray:
        return (scale * self.rng.standard_normal(size)).astype(self.dtype)

    def conv(self, source: str, out: int, kernel: int | Sequence[int] = 1, *, bias: bool = True, stride: Any = 1,
             dilation: Any = 1, pad: Any = 0, groups: int = 1, name: str = "", pinned: str = "") -> str:
        kernel = (kernel,) * self.rank if isinstance(kernel, int) else kernel
        weight = self.weights(out, self.channels(source) // groups, *kernel)
        op = Conv(weight, self.vector(out) if bias else None, stride, dilation, pad, groups)
        return self.emit(op, source, name=name, pinned=pinned)

    def transposed(self, source: str, out: int, kernel: int, *, bias: bool = True, stride: int = 1, crop: Any = 0) -> str:
        weight = self.weights(self.channels(source), out, *(kernel,) * self.rank)
        return self.emit(ConvTranspose(weight, self.vector(out) if bias else None, stride, 1, crop), source)

    def dense(self, source: str, out: int, *, bias: bool = True) -> str:
        shape = self.graph(source).shape(source)
        assert shape is not None
        assert isinstance(shape[-1], int)
        return self.emit(Dense(Conv(self.weights(out, shape[-1]), self.vector(out) if bias else None)), source)

    def affine(self, source: str, *, shift: bool = True, positive: bool = True) -> str:
        size = self.channels(source)
        scale = np.abs(self.vector(size)) + np.float32(0.5)
        scale = scale if positive else -scale
        return self.emit(Affine(scale, self.vector(size) if shift else np.zeros(size, self.dtype)), source)

    def average(self, source: str, kernel: int, *, stride: int = 0, pad: int = 0, count: bool = False) -> str:
        every = (kernel,) * self.rank
        op = Pool("avg", every, (stride or kernel,) * self.rank, ((pad, pad),) * self.rank, (1,) * self.rank, count)
        return self.emit(op, source)

    def relu(self, source: str) -> str:
        return self.emit(Activation("relu"), source)

    def add(self, *sources: str, signs: tuple[int, ...] = ()) -> str:
        return self.emit(Add(signs), *sources)


def magnitude(op: Op) -> Op:
    """The operation with the absolute values of its weights; of an activation at most its input comes out."""
    match op:
        case Conv() | ConvTranspose():
            bias = None if op.bias is None else np.abs(op.bias64)
            return type(op)(np.abs(op.weight.astype(np.float64)), bias, op.stride, op.dilation, op.padding, op.groups)
        case Dense():
            layer = magnitude(op.layer)
            assert isinstance(layer, Conv)
            return Dense(layer)
        case Affine():
            return Affine(np.abs(op.scale), np.abs(op.shift))
        case Add():
            return Add()
        case BiasMap():
            return BiasMap(np.abs(op.values))
        case Pad():
            return replace(op, value=abs(op.value))
        case Activation(kind="relu" | "clip" | "leaky_relu" | "sigmoid" | "tanh"):
            return Identity()
        case Pool() | GlobalPool() | Flatten() | Concat() | Select() | Slice() | Upsample() | Identity():
            return op
        case _:
            raise AssertionError(f"no magnitude of {op}")


def fan_in(op: Op) -> int:
    """Terms that one output of an operation adds up."""
    match op:
        case Conv():
            return op.weight[0].size + 1
        case ConvTranspose():
            return op.weight.size + 1
        case Dense():
            return op.layer.weight[0].size + 1
        case Pool():
            return prod(op.kernel)
        case GlobalPool():
            return 64
        case _:
            return 2


def sizes_of(graph: Graph, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Σ|w||x| at every output."""
    nodes = tuple(replace(n, op=magnitude(n.op)) for n in graph.nodes)
    return run(replace(graph, nodes=nodes), {name: np.abs(x) for name, x in inputs.items()})


def assert_same(old: Graph, new: Graph, inputs: dict[str, np.ndarray]) -> None:
    """The two graphs give the same on every output, up to the rounding of float64."""
    assert old.inputs == new.inputs
    assert old.outputs == new.outputs
    check(new)
    terms = sum(fan_in(n.op) for g in (old, new) for n in g.nodes)
    if any("_split/" in n.name for n in new.nodes):
        terms += round(1e-13 / EPS)  # singular values that small were taken for zero
    if any("padding_value" in n.name for n in new.nodes):
        terms += round(1e-12 / EPS)  # the solver's residual
    before, after = run(old, inputs), run(new, inputs)
    large, also = sizes_of(old, inputs), sizes_of(new, inputs)
    for name in old.outputs:
        assert before[name].shape == after[name].shape
        error = np.abs(before[name] - after[name]).max(initial=0)
        allowed = terms * EPS * max(large[name].max(initial=0), also[name].max(initial=0))
        assert error <= allowed, f"{name}: off by {error:.3g}, {allowed:.3g} allowed"


def assert_rows_are_true(old: Graph, new: Graph, rows: tuple[Cascade, ...], target: str, cap: float) -> None:
    """What rows say was removed and added is what was; costs are those of these nodes; the cap holds."""
    before, after = ({n.name: n for n in g.nodes} for g in (old, new))
    assert all(after[name] is before[name] for name in after.keys() & before.keys()), "kept nodes are the same objects"
    removed = [name for row in rows for name in row.removed]
    added = [name for row in rows for name in row.added]
    assert sorted(removed) == sorted(before.keys() - after.keys())
    assert sorted(added) == sorted(after.keys() - before.keys())
    assert all(after[name].origin == () for name in added)
    for row in rows:
        assert (row.decision == "merged") == bool(row.removed), "what changed; nothing need be added where a layer goes"
        assert row.reason
        assert row.tier == "exact"
        if row.decision == "left":
            continue
        gone, new_nodes = [before[n] for n in row.removed], [after[n] for n in row.added]
        assert set(row.layers) == {name for n in gone for name in n.origin}
        if row.exit:
            assert gone[-1].output == row.exit
            assert new_nodes[-1].output == row.exit or row.exit not in new.tensors
        model = target_named(target)
        assert row.before == model.segment_cost(gone, sized(old).tensors)
        assert row.after == model.segment_cost(new_nodes, sized(new).tensors)
        if row.exit:  # a merge; what values make of a sum, say a shift, may store something where nothing was stored
            assert stored(new_nodes) <= cap * stored(gone)


def stored(nodes: list[Node]) -> int:
    return sum(map(parameters, nodes))


def inputs_for(graph: Graph, seed: int = 0, batch: int = 2, unknown: int = 9) -> dict[str, np.ndarray]:
    """Standard normal inputs; sizes that are not known are `unknown` and more."""
    rng = np.random.default_rng(seed)
    found = {}
    for name in graph.inputs:
        shape = graph.shape(name)
        assert shape is not None
        size = [n if isinstance(n, int) else unknown + i for i, n in enumerate(shape[1:])]
        found[name] = rng.standard_normal((batch, *size))
    return found


def at_positions(layer: Conv, x: np.ndarray, ranges: Sequence[tuple[int, int]]) -> np.ndarray:
    """The layer's answers at output positions start ≤ p < stop per axis on an x with zeros all around it.

    Written out tap by tap, without the layer's own evaluation and without its padding after the last sample.
    """
    count = [stop - start for start, stop in ranges]
    out = np.zeros((x.shape[0], layer.out_channels, *count))
    reached = [(axis.first(start), axis.last(stop - 1)) for axis, (start, stop) in zip(layer.axes, ranges, strict=True)]
    near = crop_or_pad_far(x, [(-lo, hi + 1 - n) for (lo, hi), n in zip(reached, x.shape[2:], strict=True)])
    for tap in np.ndindex(*layer.kernel):
        starts = [t * axis.step for t, axis in zip(tap, layer.axes, strict=True)]
        fields = zip(starts, layer.stride, count, strict=True)
        seen = near[(..., *(slice(at, at + s * (n - 1) + 1, s) for at, s, n in fields))]
        seen = seen.reshape(x.shape[0], layer.groups, -1, *count)
        weight = layer.weight[(..., *tap)].astype(np.float64).reshape(layer.groups, -1, layer.weight.shape[1])
        out += np.einsum("goc,ngc...->ngo...", weight, seen).reshape(out.shape)
    return out + layer.bias64.reshape(-1, *(1,) * layer.rank)


def crop_or_pad_far(x: np.ndarray, pads: Sequence[tuple[int, int]]) -> np.ndarray:
    """`crop_or_pad`, also where the window lies wholly beside the array."""
    wide = tuple((max(lo, 0), max(hi, 0)) for lo, hi in pads)
    narrow = tuple((min(lo, 0), min(hi, 0)) for lo, hi in pads)
    return crop_or_pad(crop_or_pad(x, wide), narrow)
