"""Inputs that may take activations out of their regime: corners, patterns, data, and ascent along gradient signs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from decascade.bounds.adjoint import Form, clipped, merged, pull
from decascade.bounds.box import Box
from decascade.bounds.forward import Values, fit, is_linear, run, taps
from decascade.bounds.geometry import part
from decascade.bounds.regimes import value
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import Activation, GlobalPool, Pool

F64 = NDArray[np.float64]
Inputs = dict[str, Values]
Watch = Callable[[str, Values], None]
BATCH = 32


@dataclass(frozen=True, eq=False)
class Limits:
    """The box at the size analysed: per input lo and hi (C, *S, 1) as float32 numbers within the box."""

    lo: Mapping[str, Values]
    hi: Mapping[str, Values]

    @staticmethod
    def of(graph: Graph, box: Box) -> Limits:
        lo, hi = dict[str, Values](), dict[str, Values]()
        for name in graph.inputs:
            shape = tuple(int(n) for n in (graph.shape(name) or ())[1:])
            interval = box.intervals[name]
            a, b = (np.broadcast_to(v, shape)[..., None] for v in (interval.lo, interval.hi))
            x, y = a.astype(np.float32), b.astype(np.float32)
            lo[name] = np.where(x < a, np.nextafter(x, np.float32(np.inf)), x)
            hi[name] = np.maximum(np.where(y > b, np.nextafter(y, np.float32(-np.inf)), y), lo[name])
        return Limits(lo, hi)

    def at(self, shares: Callable[[tuple[int, ...]], Values]) -> Inputs:
        """lo + share·(hi − lo), kept within; `shares` gives numbers in [0, 1] for a sample shape (C, *S)."""
        found: Inputs = {}
        for name, lo in self.lo.items():
            hi = self.hi[name]
            x = (lo + shares(lo.shape[:-1]) * (hi - lo)).astype(np.float32)
            found[name] = np.minimum(np.maximum(x, lo), hi)
        return found

    def keep(self, inputs: Mapping[str, Values]) -> Inputs:
        return {k: np.clip(v.astype(np.float32), self.lo[k], self.hi[k]) for k, v in inputs.items()}


def patterns(limits: Limits, rng: np.random.Generator) -> Iterator[Inputs]:
    """Batches without end: plain colours, noise, corners of several densities, coarse blocks, half pictures."""
    def noise(shape: tuple[int, ...]) -> Values:
        return rng.random((*shape, BATCH))

    def corners(shape: tuple[int, ...]) -> Values:
        return (rng.random((*shape, BATCH)) < rng.choice([0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97], BATCH)).astype(np.float64)

    def colours(shape: tuple[int, ...]) -> Values:
        plain = rng.random((shape[0], *(1,) * (len(shape) - 1), BATCH))
        sharp = rng.random(BATCH) < 0.7
        return np.broadcast_to(np.where(sharp, np.round(plain), plain), (*shape, BATCH)).copy()

    def blocks(shape: tuple[int, ...]) -> Values:
        found = np.empty((*shape, BATCH))
        for n in range(BATCH):
            grid = int(rng.integers(2, 2 + max(2, max(shape[1:], default=2) // 2)))
            coarse = rng.random((shape[0], *(min(grid, s) for s in shape[1:])))
            if rng.random() < 0.7:
                coarse = np.round(coarse)
            # every entry of the picture takes that of its block
            index = np.ix_(np.arange(shape[0]), *(np.arange(s) * min(grid, s) // s for s in shape[1:]))
            found[..., n] = coarse[index]
        return found

    def halves(shape: tuple[int, ...]) -> Values:
        found = colours(shape)
        other = colours(shape)
        for n in range(BATCH):
            axis = int(rng.integers(1, len(shape))) if len(shape) > 1 else 0
            cut = int(rng.integers(0, shape[axis] + 1))
            at = (*(slice(None),) * axis, slice(cut, None))
            found[..., n][at] = other[..., n][at]
        return found + 0.2 * (rng.random(found.shape) - 0.5) * (rng.random(BATCH) < 0.3)

    while True:
        for make in (colours, corners, halves, blocks, noise):
            yield limits.at(make)


def gradient(graph: Graph, inputs: Inputs, name: str, seed: Form, watch: Watch) -> dict[str, Form]:
    """Per sample the gradient of one row of a form on a tensor with respect to the inputs.

    `inputs` (C, *S, N); the seed's last axis is the sample axis.  `watch` is shown every tensor on the way.
    """
    needed = {n.inputs[0] for n in graph.nodes if not is_linear(n.op)}
    shapes, values = dict[str, tuple[int, ...]](), dict[str, Values]()

    def see(tensor: str, x: Values) -> None:
        watch(tensor, x)
        shapes[tensor] = x.shape[:-1]
        if tensor in needed:
            values[tensor] = x

    run(graph, inputs, see, stop_after=name)
    forms = {name: seed}
    for node in reversed(graph.nodes):
        if len(node.outputs) != 1 or node.output not in forms:
            continue
        form = forms.pop(node.output)
        for source, back in zip(node.inputs, _back(node, form, shapes, values), strict=False):
            forms[source] = merged(forms[source], back) if source in forms else back
    return {n: forms[n] for n in graph.inputs if n in forms}


def _back(node: Node, form: Form, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, Values]) -> Sequence[Form]:
    op, source = node.op, node.inputs[0] if node.inputs else ""
    if is_linear(op):
        return pull(op, form, [shapes[n] for n in node.inputs])[0]
    if isinstance(op, Activation) and op.kind != "softmax":
        x = values[source][form.where]
        return [Form(form.coefficients * slope(op, x.astype(np.float64)), form.window)]
    if isinstance(op, (Pool, GlobalPool)):
        return [_to_winner(op, form, values[source].astype(np.float64))]
    return []


def slope(op: Activation, x: F64) -> F64:
    """The derivative of an activation, by a difference where it is not a ReLU's."""
    if op.kind == "relu":
        return (x > 0).astype(np.float64)
    step = 1e-4 * (1 + np.abs(x))
    if op.slope is not None:
        rows = op.slope.astype(np.float64).reshape(-1, *(1,) * (x.ndim - 1))
        return np.where(x > 0, 1.0, np.broadcast_to(rows, x.shape))
    return (value(op, x + step) - value(op, x - step)) / (2 * step)


def _to_winner(op: Pool | GlobalPool, form: Form, x: F64) -> Form:
    size, a = x.shape[1:-1], form.coefficients
    if isinstance(op, GlobalPool):
        a = a.reshape(a.shape[0], *(1,) * len(size), a.shape[-1])
        form = Form(a, ((0, 1),) * len(size))
        op = Pool("max", size, (1,) * len(size), ((0, 0),) * len(size), (1,) * len(size))
    padded = fit(x, op.padding, -np.inf)
    count = tuple((n - (k - 1) * d - 1) // s + 1 for n, k, d, s in zip(
        padded.shape[1:-1], op.kernel, op.dilation, op.stride, strict=True))
    cuts = list(taps(op.kernel, op.stride, op.dilation, count))
    winner = np.stack([padded[(slice(None), *at)] for _, at in cuts]).argmax(axis=0)[form.where]
    lengths = [(q - p - 1) * s + (k - 1) * d + 1
               for (p, q), s, k, d in zip(form.window, op.stride, op.kernel, op.dilation, strict=True)]
    buffer = np.zeros((a.shape[0], *lengths, a.shape[-1]))
    for i, (_, at) in enumerate(taps(op.kernel, op.stride, op.dilation, a.shape[1:-1])):
        buffer[(slice(None), *at)] += np.where(winner == i, a, 0.0)
    starts = [w[0] * s - p[0] for w, s, p in zip(form.window, op.stride, op.padding, strict=True)]
    return clipped(buffer, starts, size)


@dataclass(frozen=True)
class Goal:
    """One neuron of a tensor to be pushed up (+1) or down (−1)."""

    channel: int
    position: tuple[int, ...]
    direction: int


STEPS = (1.0, 1.0, 0.5, 0.25, 0.1)
"""Share of the box that each step of the ascent may cross."""


def ascend(
    graph: Graph, tensor: str, goals: Sequence[Goal], start: Inputs, limits: Limits, watcher: Callable[[Inputs], Watch]
) -> Inputs:
    """Push one neuron per sample along the signs of its gradient, from `start`; every point on the way is watched, up to
    the tensor.  The last point."""
    ahead = part(graph, [tensor])
    shape = tuple(int(n) for n in (graph.shape(tensor) or ())[1:])
    window = tuple((min(p), max(p) + 1) for p in zip(*(g.position for g in goals), strict=True))
    seed = np.zeros((shape[0], *(b - a for a, b in window), len(goals)))
    for n, goal in enumerate(goals):
        seed[(goal.channel, *(p - a for p, (a, _) in zip(goal.position, window, strict=True)), n)] = goal.direction
    x = {k: v for k, v in start.items() if k in ahead.inputs}
    rest = {k: v for k, v in start.items() if k not in ahead.inputs}
    for share in STEPS:
        for name, form in gradient(ahead, x, tensor, Form(seed, window), watcher({**rest, **x})).items():
            reach = share * (limits.hi[name] - limits.lo[name])[form.where]
            moved = x[name].copy()
            moved[form.where] += (reach * np.sign(form.coefficients)).astype(np.float32)
            x = {**x, name: np.clip(moved, limits.lo[name], limits.hi[name])}
    run(ahead, x, watcher({**rest, **x}), stop_after=tensor)
    return {**rest, **x}


__all__ = ["BATCH", "Goal", "Limits", "ascend", "gradient", "patterns"]
