"""What may replace a segment: families of students, each fitted in closed form on moments.

A student is a chain of operations from the segment's entry to its exit (with `skip`, plus the entry itself).  A family is one
class with `propose`; adding one is adding it to `candidates.FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

import numpy as np

from decascade.algebra.conv import Array, Conv
from decascade.compression.receptive_field import Reach, reach_of
from decascade.compression.segments import Segment, nodes_of
from decascade.compression.students.least_squares import Matrix
from decascade.compression.students.moments import LARGEST, Moments
from decascade.compression.students.windows import Request, Window
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.names import Names
from decascade.ir.ops import Add, Affine, Dense, Op
from decascade.ir.ops.traits import is_linear
from decascade.ir.shapes import infer

KERNELS = (1, 3, 5, 7)
"""Kernel sizes that are tried."""


@dataclass(frozen=True, eq=False)
class Site:
    """A segment and the sizes a student has to have: channels and spatial size of its entry and of its exit."""

    graph: Graph
    segment: Segment
    reach: Reach | None
    channels: int
    out_channels: int
    size: tuple[int, ...]
    out_size: tuple[int, ...]

    @property
    def can_skip(self) -> bool:
        """Whether the entry can be added to what a student computes."""
        return self.channels == self.out_channels and self.size == self.out_size

    @property
    def linear(self) -> bool:
        """Whether the exit is an affine function of the entry."""
        return all(is_linear(node.op) for node in nodes_of(self.graph, self.segment))

    def windows(self) -> Iterator[Window]:
        """Windows in the middle of the reach, smallest first; all of a large reach only where one convolution can be exact."""
        if self.reach is None:
            return
        whole = self.reach.kernel
        sizes = dict.fromkeys(tuple(min(k, w) for w in whole) for k in KERNELS)
        for kernel in dict.fromkeys([*sizes, whole]) if self.linear else sizes:
            if self.channels * prod(kernel) <= LARGEST:
                start = tuple(a + (w - k) // 2 for a, w, k in zip(self.reach.start, whole, kernel, strict=True))
                yield Window(kernel, self.reach.stride, start)

    def request(self, window: Window, skip: bool) -> Request:
        return Request(self.segment.entry, window, self.segment.exit, self.segment.entry if skip else "")

    def skips(self) -> tuple[bool, ...]:
        return (False, True) if self.can_skip else (False,)


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted student: its operations with their weights, and the share of the exit's variance that it leaves
    unexplained on held-out and on fitted samples (their difference is the error of the sampling)."""

    ops: tuple[Op, ...]
    error: float
    fitted_error: float


class Student(Protocol):
    """One replacement of one segment.  `label` says in the field's words what it is and how large."""

    @property
    def site(self) -> Site: ...

    @property
    def label(self) -> str: ...

    @property
    def skip(self) -> bool: ...

    def requests(self) -> tuple[Request, ...]:
        """The regressions that the fit needs."""
        ...

    def blank(self) -> tuple[Op, ...]:
        """The operations with their weights `unset`: all that costs need."""
        ...

    def fit(self, moments: Moments) -> Fit:
        """The operations with their least-squares weights."""
        ...


def unset(*shape: int) -> Array:
    """Weights that are not known yet, in no memory: neither 0 nor 1, which would cost nothing."""
    return np.broadcast_to(np.float64(0.5), shape)


def layer(weight: Array, bias: Array | None, window: Window | None = None, site: Site | None = None, groups: int = 1) -> Op:
    """A convolution, dense where there are no axes; without a window it is 1x1."""
    rank = weight.ndim - 2
    if not rank:
        return Dense(Conv(weight, bias))
    if window is None or site is None:
        return Conv(weight, bias, groups=groups)
    return Conv(weight, bias, window.stride, 1, window.padding(site.size, site.out_size), groups)


def named(window: Window) -> str:
    """ "3x3", "3x3/2" with its stride; dense layers have no name."""
    kernel = "x".join(map(str, window.kernel))
    return kernel + (f"/{max(window.stride)}" if any(s > 1 for s in window.stride) else "")


def titled(*words: str, skip: bool = False) -> str:
    return " ".join([*filter(None, words), *["+ skip"] * skip])


def kernel_of(weight: Matrix, window: Window) -> Array:
    """W, (C·ΠK, O), as the weight of a convolution, (O, C, *K)."""
    return weight.T.reshape(weight.shape[1], -1, *window.kernel)


@dataclass(frozen=True, eq=False)
class OneConv:
    """One convolution: the least-squares optimum itself (DESIGN §3, Least squares)."""

    site: Site
    window: Window
    skip: bool = False

    @property
    def label(self) -> str:
        return titled("conv" if self.window.kernel else "dense", named(self.window))

    @staticmethod
    def propose(site: Site) -> Iterator[Student]:
        for window in site.windows():
            yield OneConv(site, window)

    def requests(self) -> tuple[Request, ...]:
        return (self.site.request(self.window, False),)

    def blank(self) -> tuple[Op, ...]:
        shape = (self.site.out_channels, self.site.channels, *self.window.kernel)
        return (layer(unset(*shape), unset(shape[0]), self.window, self.site),)

    def fit(self, moments: Moments) -> Fit:
        (request,) = self.requests()
        regression, weight = moments.regression(request), moments.regression(request).weight
        bias = regression.bias(weight)
        return Fit((layer(kernel_of(weight, self.window), bias, self.window, self.site),), *regression.error(weight))


@dataclass(frozen=True, eq=False)
class Dropped:
    """The segment dropped: every channel of the entry, scaled and shifted."""

    site: Site
    skip: bool = False
    label: str = "dropped"

    @staticmethod
    def propose(site: Site) -> Iterator[Student]:
        if site.can_skip:
            yield Dropped(site)

    def requests(self) -> tuple[Request, ...]:
        rank = len(self.site.size)
        return (self.site.request(Window((1,) * rank, (1,) * rank, (0,) * rank), False),)

    def blank(self) -> tuple[Op, ...]:
        return (Affine(unset(self.site.channels), unset(self.site.channels)),)

    def fit(self, moments: Moments) -> Fit:
        regression = moments.regression(self.requests()[0])
        variance = np.diag(regression.gram)
        scale = np.divide(np.diag(regression.cross), variance, out=np.zeros(len(variance)), where=variance > 0)
        weight = np.diag(scale)
        return Fit((Affine(scale, regression.bias(weight)),), *regression.error(weight))


def site_of(graph: Graph, segment: Segment) -> Site | None:
    """The sizes of a segment; None where they are not all known, or what it reads or writes is neither map nor vector."""
    ends = [graph.shape(segment.entry), graph.shape(segment.exit)]
    found = list[tuple[int, ...]]()
    for shape in ends:
        sizes = tuple(n for n in (shape or ())[1:] if isinstance(n, int))
        if shape is None or len(shape) < 2 or len(sizes) != len(shape) - 1:
            return None
        found.append(sizes)
    (channels, *size), (out_channels, *out_size) = found
    return Site(graph, segment, reach_of(graph, segment), channels, out_channels, tuple(size), tuple(out_size))


def written(student: Student, ops: Sequence[Op], label: str, names: Names) -> tuple[tuple[Node, ...], dict[str, Tensor]]:
    """The student as nodes between the segment's entry and exit, and the tensors between them."""
    site, segment = student.site, student.site.segment
    dtype = site.graph.tensors[segment.exit].dtype
    nodes, tensors, source = list[Node](), dict[str, Tensor](), segment.entry
    shape = site.graph.shape(source)
    for i, op in enumerate(ops):
        last = i == len(ops) - 1 and not student.skip
        output = segment.exit if last else names.tensor(f"{label}/{i}")
        (shape,) = infer(op, [shape])
        tensors[output] = Tensor(output, shape, dtype)
        nodes.append(Node(names.node(f"{label}/{i}" if len(ops) > 1 else label), op, (source,), (output,)))
        source = output
    if student.skip:
        tensors[segment.exit] = Tensor(segment.exit, shape, dtype)
        nodes.append(Node(names.node(f"{label}/add"), Add(), (source, segment.entry), (segment.exit,)))
    return tuple(nodes), tensors
