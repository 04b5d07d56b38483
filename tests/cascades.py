"""Random linear cascades as graphs: every node between "x" and "y" is linear, and `check` passes.

`random_cascade(rng)` for long runs and benchmarks, `cascades()` for hypothesis: one generator behind both, so that what
hypothesis shrinks is what the long run samples.  Simple choices come first everywhere: they are what it shrinks to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Protocol, TypeVar

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from decascade.algebra.conv import Conv, Pads
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.ops import Add, Affine, Concat, Dense, Flatten, Identity, Op, Pad, Pool
from decascade.ir.shapes import infer_graph

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """What a cascade may hold.  `depth` counts convolutions and dense layers on the longest path.

    `chain`: no skips and no branches.  `bias`: True all layers, False none, None some.
    """

    ranks: tuple[int, ...] = (2, 1, 3)
    depth: tuple[int, int] = (2, 4)
    chain: bool = False
    affine: bool = True
    pools: bool = True
    pads: bool = True
    tails: bool = True
    strides: bool = True
    dilations: bool = True
    groups: bool = True
    bias: bool | None = None
    channels: int = 6
    size: tuple[int, int] = (5, 14)
    size_3d: tuple[int, int] = (4, 7)


DEFAULT = Options()


class Choice(Protocol):
    """Where decisions and weights come from."""

    def integer(self, lo: int, hi: int) -> int: ...

    def weights(self, shape: tuple[int, ...], scale: float) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class RngChoice:
    rng: np.random.Generator

    def integer(self, lo: int, hi: int) -> int:
        return int(self.rng.integers(lo, hi + 1))

    def weights(self, shape: tuple[int, ...], scale: float) -> NDArray[np.float32]:
        return (scale * self.rng.standard_normal(shape)).astype(np.float32)


@dataclass(frozen=True)
class DrawChoice:
    """Decisions drawn one by one; weights from a generator of a drawn seed, as their values are not worth shrinking."""

    draw: Callable[[st.SearchStrategy[int]], int]
    rng: np.random.Generator

    def integer(self, lo: int, hi: int) -> int:
        return self.draw(st.integers(lo, hi))

    def weights(self, shape: tuple[int, ...], scale: float) -> NDArray[np.float32]:
        return RngChoice(self.rng).weights(shape, scale)


def random_cascade(rng: np.random.Generator, options: Options = DEFAULT) -> Graph:
    """A random linear cascade from "x" (N, C, *S) to "y"; float32 weights, fixed spatial sizes, free batch."""
    return _Builder(RngChoice(rng), options).build()


@st.composite
def cascades(draw: Callable[[st.SearchStrategy[int]], int], options: Options = DEFAULT) -> Graph:
    """Hypothesis: as `random_cascade`, shrinking to two plain 1×1 layers in 2-D."""
    seed = draw(st.integers(0, 2**32 - 1))
    return _Builder(DrawChoice(draw, np.random.default_rng(seed)), options).build()


def random_input(graph: Graph, rng: np.random.Generator, batch: int = 2) -> dict[str, NDArray[np.float32]]:
    """A standard normal float32 array for each input of a graph."""
    return {
        name: rng.standard_normal(tuple(d if isinstance(d, int) else batch for d in graph.shape(name) or ())).astype(np.float32)
        for name in graph.inputs
    }


@dataclass(frozen=True)
class _Geometry:
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: Pads


class _Builder:
    """Grows a graph from "x"; the methods take and return names of tensors."""

    def __init__(self, choice: Choice, options: Options) -> None:
        self.choice, self.options = choice, options
        self.rank = self.pick(options.ranks)
        lo, hi = options.size_3d if self.rank == 3 else options.size
        size = [choice.integer(lo, hi) for _ in range(self.rank)]
        self.nodes: list[Node] = []
        self.shapes: dict[str, tuple[int, ...]] = {"x": (choice.integer(1, options.channels), *size)}

    def pick(self, values: Sequence[T]) -> T:
        return values[self.choice.integer(0, len(values) - 1)]

    def chance(self, percent: int) -> bool:
        # shrinks to False
        return self.choice.integer(0, 99) >= 100 - percent

    def build(self) -> Graph:
        options = self.options
        left = self.choice.integer(*options.depth)
        dense = min(self.choice.integer(1, 2), left - 1) if options.tails and self.chance(15) else 0
        left -= dense
        name = self.between("x", before=True)
        while left:
            name, used = self.stage(name, left)
            left -= used
            name = self.between(name)
        if dense:
            name = self.tail(name, dense)
        return self.finish(name)

    def finish(self, last: str) -> Graph:
        def renamed(name: str) -> str:
            return "y" if name == last else name

        nodes = tuple(
            replace(n, inputs=tuple(map(renamed, n.inputs)), outputs=tuple(map(renamed, n.outputs))) for n in self.nodes
        )
        graph = Graph(nodes, ("x",), ("y",), {"x": Tensor("x", ("N", *self.shapes["x"]))}, "cascade")
        return infer_graph(graph)

    def emit(self, kind: str, op: Op, inputs: tuple[str, ...], shape: tuple[int, ...]) -> str:
        name = f"{kind}{len(self.nodes)}"
        self.nodes.append(Node(name, op, inputs, (name,), origin=(name,)))
        self.shapes[name] = shape
        return name

    # -- what stands between layers

    def between(self, name: str, before: bool = False) -> str:
        options = self.options
        if options.affine and self.chance(15 if before else 40):
            name = self.affine(name)
        if options.pads and self.chance(6):
            name = self.pad(name)
        if options.pools and not before and self.chance(12):
            name = self.average(name, self.geometry(name))
        return self.emit("identity", Identity(), (name,), self.shapes[name]) if self.chance(4) else name

    def affine(self, name: str) -> str:
        channels = self.shapes[name][0]
        scale = self.choice.weights((channels,), 0.4) + np.float32(1)
        return self.emit("bn", Affine(scale, self.choice.weights((channels,), 0.5)), (name,), self.shapes[name])

    def pad(self, name: str) -> str:
        pads = tuple((self.choice.integer(0, 2), self.choice.integer(0, 2)) for _ in range(self.rank))
        channels, *size = self.shapes[name]
        return self.emit("pad", Pad(pads), (name,), (channels, *(n + lo + hi for n, (lo, hi) in zip(size, pads, strict=True))))

    def average(self, name: str, wanted: _Geometry) -> str:
        channels, *size = self.shapes[name]
        kernel = tuple(min(k, n) for k, n in zip(wanted.kernel, size, strict=True))
        # no window may lie wholly in the padding: frameworks divide by zero there, each in its own way
        pads = tuple((min(lo, k - 1), min(hi, k - 1)) for (lo, hi), k in zip(wanted.padding, kernel, strict=True))
        geometry = _Geometry(kernel, wanted.stride, (1,) * self.rank, pads)
        op = Pool("avg", kernel, geometry.stride, pads, geometry.dilation, self.chance(50))
        return self.emit("pool", op, (name,), (channels, *self.after(size, geometry)))

    # -- layers

    def stage(self, name: str, left: int) -> tuple[str, int]:
        """One step of the main path; also the number of layers that it used."""
        kind = 0 if self.options.chain else self.choice.integer(0, 9)
        if kind <= 5:
            return self.conv(name, self.geometry(name)), 1
        used = min(left, self.choice.integer(1, 2))
        if kind <= 7:
            return self.residual(name, used), used
        return self.branches(name, used, joined=kind == 8), used

    def residual(self, name: str, depth: int) -> str:
        """An identity skip around `depth` convolutions that keep the shape."""
        channels, inner = self.shapes[name][0], name
        for step in range(depth):
            inner = self.conv(inner, self.same(inner), channels if step == depth - 1 else None)
            inner = self.affine(inner) if self.options.affine and self.chance(30) else inner
        pair = (name, inner) if self.chance(50) else (inner, name)
        return self.emit("add", Add(), pair, self.shapes[name])

    def branches(self, name: str, depth: int, joined: bool) -> str:
        """Two parallel paths from one tensor, added or concatenated."""
        main = name
        stride = (1,) * self.rank
        for _ in range(depth):
            geometry = self.geometry(main)
            stride = tuple(a * b for a, b in zip(stride, geometry.stride, strict=True))
            main = self.conv(main, geometry)
        channels, *size = self.shapes[main]
        other = self.conv(name, self.fitting(name, size, stride), channels if joined else None)
        other = self.affine(other) if self.options.affine and self.chance(30) else other
        if joined:
            signs = self.pick(((), (), (1, -1)))
            return self.emit("add", Add(signs), (main, other), self.shapes[main])
        return self.emit("concat", Concat(1), (main, other), (channels + self.shapes[other][0], *size))

    def conv(self, name: str, geometry: _Geometry, out: int | None = None) -> str:
        """A convolution: plain, grouped or depthwise with a multiplier, to `out` channels where given."""
        channels = self.shapes[name][0]
        fits = [g for g in range(1, channels + 1) if channels % g == 0 and (out is None or out % g == 0)]
        groups = 1
        if self.options.groups and self.chance(40):
            groups = fits[-1] if self.chance(50) else self.pick(fits)
        if out is None:
            out = groups * self.choice.integer(1, max(1, self.options.channels // groups))
        shape = (out, channels // groups, *geometry.kernel)
        layer = Conv(
            self.choice.weights(shape, prod(shape[1:]) ** -0.5),
            self.bias(out),
            geometry.stride,
            geometry.dilation,
            geometry.padding,
            groups,
        )
        return self.emit("conv", layer, (name,), (out, *layer.output_size(self.shapes[name][1:])))

    def bias(self, channels: int) -> NDArray[np.float32] | None:
        wanted = self.chance(60) if self.options.bias is None else self.options.bias
        return self.choice.weights((channels,), 0.5) if wanted else None

    def tail(self, name: str, depth: int) -> str:
        """Flatten and `depth` dense layers."""
        order = self.pick(("channels_first", "channels_last"))
        width = prod(self.shapes[name])
        name = self.emit("flatten", Flatten(order), (name,), (width,))
        for _ in range(depth):
            out = self.choice.integer(1, 8)
            layer = Conv(self.choice.weights((out, width), width**-0.5), self.bias(out))
            name, width = self.emit("dense", Dense(layer), (name,), (out,)), out
            name = self.affine(name) if self.options.affine and self.chance(20) else name
        return name

    # -- geometry

    def after(self, size: Sequence[int], geometry: _Geometry) -> tuple[int, ...]:
        fields = zip(size, geometry.kernel, geometry.stride, geometry.dilation, geometry.padding, strict=True)
        return tuple((n + lo + hi - (k - 1) * d - 1) // s + 1 for n, k, s, d, (lo, hi) in fields)

    def taps(self) -> tuple[int, int]:
        """Kernel size and dilation of one axis."""
        kernel = self.choice.integer(1, 3 if self.rank == 3 else 5)
        dilation = self.choice.integer(2, 3) if self.options.dilations and self.chance(20) else 1
        return kernel, dilation

    def geometry(self, name: str) -> _Geometry:
        """Any kernel, stride, dilation and padding that leave something of the tensor."""
        axes = [self.axis(n) for n in self.shapes[name][1:]]
        return _Geometry(*map(tuple, zip(*axes, strict=True)))

    def axis(self, size: int) -> tuple[int, int, int, tuple[int, int]]:
        kernel, dilation = self.taps()
        stride = self.choice.integer(2, 3) if self.options.strides and self.chance(25) else 1
        most = max(min((kernel - 1) * dilation, 3), 1)
        low = self.choice.integer(0, most)
        high = self.choice.integer(0, most) if self.chance(40) else low
        while (kernel - 1) * dilation + 1 > size + low + high:
            kernel -= 1
        return kernel, stride, dilation, (low, high)

    def same(self, name: str) -> _Geometry:
        """Stride 1 and a padding that keeps the size, not always evenly spread."""
        return self.fitting(name, self.shapes[name][1:], (1,) * self.rank)

    def fitting(self, name: str, wanted: Sequence[int], stride: tuple[int, ...]) -> _Geometry:
        """Any kernel, dilation and padding that reach the wanted size at this stride."""
        axes = []
        for n, m, s in zip(self.shapes[name][1:], wanted, stride, strict=True):
            kernel, dilation = self.taps()
            # padding before and after together: (m − 1)·s + reach + 1 − n, up to s − 1 more
            least = (m - 1) * s + 1 - n + s - 1
            if (kernel - 1) * dilation + least < 0:
                kernel, dilation = 1 - least, 1
            total = max((m - 1) * s + (kernel - 1) * dilation + 1 - n, 0)
            low = total // 2 if self.chance(60) else self.choice.integer(0, total)
            axes.append((kernel, s, dilation, (low, total - low)))
        return _Geometry(*map(tuple, zip(*axes, strict=True)))
