"""Students with hidden layers: the segment with fewer hidden channels, and one hidden layer for a longer segment.

Which channels stay is decided on the moments of the layer that reads them (`eliminate`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Conv
from decascade.compression.segments import nodes_of
from decascade.compression.students.families import Fit, Site, Student, kernel_of, named, titled, unset
from decascade.compression.students.least_squares import Matrix, ridge_solve
from decascade.compression.students.moments import LARGEST, Moments
from decascade.compression.students.windows import Request, Window
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import Dense, Flatten, Op
from decascade.ir.ops.traits import is_element_wise, is_per_channel, layer_of, with_channels

EIGHTHS = range(1, 8)
Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Link:
    """A dense layer, the channel-by-channel operations before it, and for each input row of its kernel the channel of the
    layer before that it belongs to."""

    before: tuple[Node, ...]
    node: Node
    owner: Index

    @property
    def conv(self) -> Conv:
        return _conv(self.node)

    def request(self) -> Request:
        conv = self.conv
        window = Window(conv.kernel, conv.stride, tuple(-before for before, _ in conv.padding))
        return Request(self.node.inputs[0], window, self.node.output)

    def owner_rows(self) -> Index:
        """The channel of every row of the kernel as a regression has it: input channels, then taps."""
        return np.repeat(self.owner, prod(self.conv.kernel))


def _links(site: Site) -> tuple[_Link, ...] | None:
    """The segment as a chain of dense layers with channel-by-channel operations between; None where it is none."""
    by_input = {node.inputs: node for node in nodes_of(site.graph, site.segment)}
    tensor, links, between = site.segment.entry, list[_Link](), list[Node]()
    owner = np.arange(site.channels)
    while tensor != site.segment.exit:
        node = by_input.get((tensor,))
        if node is None:
            return None
        tensor = node.output
        if _is_dense(site.graph, node):
            link = _Link(tuple(between), node, owner)
            if any(d > 1 for d in link.conv.dilation):
                return None
            links.append(link)
            between, owner = [], np.arange(link.conv.out_channels)
            continue
        between.append(node)
        moved = _owners(site.graph, node, owner)
        if moved is None:
            return None
        owner = moved
    return tuple(links) if links and not between else None


def _conv(node: Node) -> Conv:
    layer = layer_of(node.op)
    assert isinstance(layer, Conv)
    return layer


def _is_dense(graph: Graph, node: Node) -> bool:
    """Whether every output channel reads every input channel."""
    if isinstance(node.op, Dense):
        return len(graph.shape(node.inputs[0]) or ()) == 2
    return isinstance(node.op, Conv) and node.op.groups == 1


def _owners(graph: Graph, node: Node, owner: Index) -> Index | None:
    """The channel that each channel after a channel-by-channel operation belongs to; None for any other operation."""
    op = node.op
    if is_per_channel(op):
        return owner
    if isinstance(op, Flatten):
        size = graph.spatial(node.inputs[0])
        if size is None:
            return None
        count = prod(size)
        return np.repeat(owner, count) if op.order == "channels_first" else np.tile(owner, count)
    return None


def _again(op: Op, weight: Matrix, bias: Matrix | None) -> Op:
    """The same layer with another kernel, (O, C, *K)."""
    if isinstance(op, Dense):
        return Dense(Conv(weight, bias))
    assert isinstance(op, Conv)
    return Conv(weight, bias, op.stride, op.dilation, op.padding)


@dataclass(frozen=True, eq=False)
class Narrowed:
    """The segment's own layers with fewer hidden channels, `widths`; every layer that reads fewer is fitted again.

    With more than one hidden layer its errors are an estimate: the explained shares of the layers, multiplied.
    """

    site: Site
    links: tuple[_Link, ...]
    widths: tuple[int, ...]
    skip: bool = False

    @property
    def label(self) -> str:
        each = zip(self.widths, self.links[:-1], strict=True)
        return "hidden " + " ".join(f"{n}/{link.conv.out_channels}" for n, link in each)

    @staticmethod
    def propose(site: Site) -> Iterator[Student]:
        links = _links(site)
        if links is not None and len(links) > 1 and all(len(link.owner_rows()) <= LARGEST for link in links[1:]):
            hidden = [link.conv.out_channels for link in links[:-1]]
            widths = dict.fromkeys(tuple(max(1, n * eighths // 8) for n in hidden) for eighths in EIGHTHS)
            yield from (Narrowed(site, links, w) for w in widths if any(a < b for a, b in zip(w, hidden, strict=True)))

    def requests(self) -> tuple[Request, ...]:
        return tuple(link.request() for link in self.links[1:])

    def blank(self) -> tuple[Op, ...]:
        return self._ops([np.arange(n) for n in self.widths], None)[0]

    def fit(self, moments: Moments) -> Fit:
        kept = list[Index]()
        for width, link in zip(self.widths, self.links[1:], strict=True):
            order = moments.order(link.request(), link.owner_rows())
            kept.append(np.sort(order[len(order) - width:]))
        return Fit(*self._ops(kept, moments))

    def _ops(self, kept: Sequence[Index], moments: Moments | None) -> tuple[tuple[Op, ...], float, float]:
        """The layers on the kept channels; the shares of variance that they leave unexplained, one after the other."""
        first = self.links[0].conv
        bias = None if first.bias is None else first.bias[kept[0]]
        ops = [n.op for n in self.links[0].before] + [_again(self.links[0].node.op, first.weight[kept[0]], bias)]
        explained, fitted = 1.0, 1.0
        for i, link in enumerate(self.links[1:]):
            ops += [with_channels(n.op, kept[i]) for n in link.before]
            out = kept[i + 1] if i + 1 < len(kept) else np.arange(link.conv.out_channels)
            if moments is None:
                width = len(kept[i]) * (len(link.owner) // self.links[i].conv.out_channels)
                ops.append(_again(link.node.op, unset(len(out), width, *link.conv.kernel), unset(len(out))))
                continue
            weight, bias, errors = _refit(link, kept[i], moments)
            explained, fitted = explained * (1 - errors[0]), fitted * (1 - errors[1])
            ops.append(_again(link.node.op, weight[out], bias[out]))
        return tuple(ops), 1 - explained, 1 - fitted


def _refit(link: _Link, kept: Index, moments: Moments) -> tuple[Matrix, Matrix, tuple[float, float]]:
    """The kernel of a layer that reads only the kept channels, (O, C', *K), its bias, and its errors."""
    regression = moments.regression(link.request())
    rows = np.flatnonzero(np.isin(link.owner_rows(), kept))
    full = np.zeros_like(regression.cross)
    full[rows] = ridge_solve(regression.gram[np.ix_(rows, rows)], regression.cross[rows])
    kernel = full[rows].T.reshape(full.shape[1], -1, *link.conv.kernel)
    return kernel, regression.bias(full), regression.error(full)


@dataclass(frozen=True, eq=False)
class OneHidden:
    """One hidden layer for a longer segment (universal approximation): the first convolution and activation of the segment on
    `width` of their channels, then one convolution fitted on them."""

    site: Site
    first: Node
    activation: Node
    window: Window
    width: int
    skip: bool = False

    @property
    def label(self) -> str:
        first = "x".join(map(str, _conv(self.first).kernel))
        return titled("one hidden layer", first, f"n={self.width}", named(self.window), skip=self.skip)

    @staticmethod
    def propose(site: Site) -> Iterator[Student]:
        if site.reach is None or _links(site) is not None:
            return  # a chain is narrowed instead
        for first, activation in _first_layers(site):
            channels = _conv(first).out_channels
            for window in _windows_behind(site, _conv(first)):
                if channels * prod(window.kernel) <= LARGEST:
                    for width in dict.fromkeys(max(1, channels * eighths // 8) for eighths in EIGHTHS):
                        yield from (OneHidden(site, first, activation, window, width, skip) for skip in site.skips())

    def requests(self) -> tuple[Request, ...]:
        segment = self.site.segment
        return (Request(self.activation.output, self.window, segment.exit, segment.entry if self.skip else ""),)

    def blank(self) -> tuple[Op, ...]:
        weight = unset(self.site.out_channels, self.width, *self.window.kernel)
        return self._ops(np.arange(self.width), weight, unset(self.site.out_channels))

    def _ops(self, kept: Index, weight: Matrix, bias: Matrix) -> tuple[Op, ...]:
        conv, op = _conv(self.first), self.first.op
        size = self.site.graph.spatial(self.activation.output) or ()
        first = _again(op, conv.weight[kept], None if conv.bias is None else conv.bias[kept])
        last = Conv(weight, bias, self.window.stride, 1, self.window.padding(size, self.site.out_size))
        return first, with_channels(self.activation.op, kept), last if self.window.kernel else Dense(last)

    def fit(self, moments: Moments) -> Fit:
        (request,) = self.requests()
        regression, taps = moments.regression(request), prod(self.window.kernel)
        owner = np.repeat(np.arange(len(regression.gram) // taps), taps)
        kept = np.sort(moments.order(request, owner)[-self.width:])
        rows = np.flatnonzero(np.isin(owner, kept))
        full = np.zeros_like(regression.cross)
        full[rows] = ridge_solve(regression.gram[np.ix_(rows, rows)], regression.cross[rows])
        return Fit(self._ops(kept, kernel_of(full[rows], self.window), regression.bias(full)), *regression.error(full))


def _first_layers(site: Site) -> Iterator[tuple[Node, Node]]:
    """Convolutions and dense layers that read the entry, with the activation that alone reads them."""
    for node in nodes_of(site.graph, site.segment):
        if _is_dense(site.graph, node) and node.inputs == (site.segment.entry,):
            readers = [reader for reader in site.graph.consumers[node.output] if reader.name in site.segment.nodes]
            if len(readers) == 1 and is_element_wise(readers[0].op):
                yield node, readers[0]


def _windows_behind(site: Site, first: Conv) -> Iterator[Window]:
    """Windows on the hidden layer, in the middle of what the exit sees of it."""
    reach = site.reach
    assert reach is not None
    if any(whole % own for whole, own in zip(reach.stride, first.stride, strict=True)):
        return
    stride = tuple(whole // own for whole, own in zip(reach.stride, first.stride, strict=True))
    # the middle of the reach, less the middle of the first kernel
    middles = [(a + b) / 2 - (axis.first(0) + axis.last(0)) / 2
               for a, b, axis in zip(reach.start, reach.stop, first.axes, strict=True)]
    for k in (1, 3, 5) if stride else (1,):
        start = tuple(round(middle / own - (k - 1) / 2) for middle, own in zip(middles, first.stride, strict=True))
        yield Window((k,) * len(stride), stride, start)


def hidden_width(student: Student) -> int | None:
    """The channels of a student's only hidden layer, for those that have one by which they are told apart."""
    match student:
        case OneHidden():
            return student.width
        case Narrowed(widths=(width,)):
            return width
        case _:
            return None
