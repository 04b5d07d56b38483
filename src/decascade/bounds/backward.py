"""Backward linear (CROWN) bounds: a linear form of some neurons traced back to the inputs, through two lines around
every activation (Zhang et al. 2018, "Efficient Neural Network Robustness Certification with General Activation Functions").

Sound for float32 in any order: the slack of every operation enters as one more bounded input (`interval`).  The float64
rounding of the trace itself needs no term of its own: where W is applied to coefficients A it is off by at most
γ_m·|A||W| in u = 2^-53, which moves the bound by γ_m·|A||W||x|, while SPARE has put 2^-10·γ_n·|A||W||x| in u = 2^-24
or coarser aside: enough for m/n up to 2^19.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from decascade.bounds.adjoint import Form, Window, can_pull, clipped, merged, pull
from decascade.bounds.forward import fit, taps
from decascade.bounds.interval import Bounds
from decascade.bounds.regimes import Lines, enclose
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import (
    Activation,
    Add,
    Affine,
    BiasMap,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    Flatten,
    Foreign,
    GlobalPool,
    Identity,
    Pad,
    Pool,
    Product,
    Select,
    Slice,
    Upsample,
)
from decascade.ir.ops.table import Table
from decascade.ir.ops.traits import is_element_wise
from decascade.typing import F64


@dataclass(eq=False)
class Tracer:
    """A graph with bounds of its tensors, through which forms are traced.  `lines` are kept per activation."""

    graph: Graph
    bounds: Mapping[str, Bounds]
    lines: dict[str, Lines] = field(default_factory=dict[str, Lines])

    def shape(self, name: str) -> tuple[int, ...]:
        return self.bounds[name].lo.shape

    def ancestors(self, name: str) -> list[Node]:
        """The nodes that lead to a tensor, last first."""
        wanted, found = {name}, list[Node]()
        for node in reversed(self.graph.nodes):
            if wanted.intersection(node.outputs):
                found.append(node)
                wanted.update(node.inputs)
        return found

    def lowest(self, name: str, seed: Form) -> F64:
        """A lower bound on every row of a form on a tensor, over the box; (R,)."""
        forms, total = {name: seed}, np.zeros(seed.coefficients.shape[-1])
        for node in self.ancestors(name):
            if len(node.outputs) != 1 or node.output not in forms:
                continue
            form = forms.pop(node.output)
            total -= self._error(node.output, form)
            relaxed = None if can_pull(node.op) else RELAXED.get(node.op)
            if can_pull(node.op):
                back, constant = pull(node.op, form, [self.shape(n) for n in node.inputs])
            elif relaxed is not None and (found := relaxed(self, node, form)) is not None:
                back, constant = found
            else:
                total += self._concrete(node.output, form)
                continue
            total += constant
            for source, part in zip(node.inputs, back, strict=True):
                forms[source] = merged(forms[source], part) if source in forms else part
        for source, form in forms.items():
            total += self._concrete(source, form)
        return np.where(np.isnan(total), -np.inf, total)

    def _error(self, name: str, form: Form) -> F64:
        slack = self.bounds[name].slack[form.where]
        if np.isinf(slack).any():
            return np.full((form.coefficients.shape[-1],), np.inf)
        return _dot(np.abs(form.coefficients), slack)

    def _concrete(self, name: str, form: Form) -> F64:
        """The lowest value of the form where every entry of the tensor may take any value within its bounds."""
        lo, hi = self.bounds[name].lo[form.where], self.bounds[name].hi[form.where]
        return _dot(np.maximum(form.coefficients, 0), lo) + _dot(np.minimum(form.coefficients, 0), hi)

    def lines_of(self, node: Node) -> Lines:
        """The lines around an activation on the bounds of its input, made once."""
        assert isinstance(node.op, Activation)
        if node.name not in self.lines:
            source = self.bounds[node.inputs[0]]
            self.lines[node.name] = enclose(node.op, source.lo, source.hi)
        return self.lines[node.name]

    def through(self, node: Node, form: Form) -> tuple[list[Form], F64] | None:
        if not is_element_wise(node.op):
            return None
        lines, a = self.lines_of(node), form.coefficients
        plus, minus = np.maximum(a, 0), np.minimum(a, 0)
        at = form.where
        back = plus * lines.low_slope[at][..., None] + minus * lines.high_slope[at][..., None]
        return [Form(back, form.window)], _dot(plus, lines.low[at]) + _dot(minus, lines.high[at])

    def maximum(self, node: Node, form: Form) -> tuple[list[Form], F64]:
        """Below a maximum is its entry with the highest lower bound; above it is that entry too where it always wins,
        and else the highest upper bound."""
        source, a = self.bounds[node.inputs[0]], form.coefficients
        op = node.op
        assert isinstance(op, (Pool, GlobalPool))
        if isinstance(op, GlobalPool):
            size = source.lo.shape[1:]
            a = a.reshape(a.shape[0], *(1,) * len(size), a.shape[-1])
            op = Pool("max", size, (1,) * len(size), ((0, 0),) * len(size), (1,) * len(size))
            form = Form(a, ((0, 1),) * len(size))
        winner, fixed = winners(op, source)
        high = self.bounds[node.output].hi.reshape(winner.shape)[form.where]
        routed = np.where(fixed[form.where][..., None], a, np.maximum(a, 0))
        rest = np.where(fixed[form.where], 0.0, high)
        return [_route(op, Form(routed, form.window), winner, source.lo.shape[1:])], _dot(np.minimum(a, 0), rest)


def winners(op: Pool, source: Bounds) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Per window the tap with the highest lower bound, and whether no other can exceed it."""
    size = tuple((n + lo + hi - (k - 1) * d - 1) // s + 1 for n, (lo, hi), k, d, s in zip(
        source.lo.shape[1:], op.padding, op.kernel, op.dilation, op.stride, strict=True))
    lows, highs = (fit(b[..., None], op.padding, -np.inf)[..., 0] for b in (source.lo, source.hi))
    cuts = [at for _, at in taps(op.kernel, op.stride, op.dilation, size)]
    low, high = (np.stack([b[(slice(None), *at)] for at in cuts]) for b in (lows, highs))
    winner = low.argmax(axis=0)
    np.put_along_axis(high, winner[None], -np.inf, axis=0)
    return winner, low.max(axis=0) >= high.max(axis=0)


def _route(op: Pool, form: Form, winner: NDArray[np.int64], size: tuple[int, ...]) -> Form:
    a = form.coefficients
    count, rows = a.shape[1:-1], a.shape[-1]
    length = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(count, op.stride, op.kernel, op.dilation, strict=True)]
    buffer = np.zeros((a.shape[0], *length, rows))
    chosen = winner[form.where][..., None]
    for i, (_, at) in enumerate(taps(op.kernel, op.stride, op.dilation, count)):
        buffer[(slice(None), *at)] += np.where(chosen == i, a, 0.0)
    starts = [w[0] * s - p[0] for w, s, p in zip(form.window, op.stride, op.padding, strict=True)]
    return clipped(buffer, starts, size)


def _dot(coefficients: F64, values: F64) -> F64:
    """Σ a·v over all entries but the rows; a zero coefficient takes nothing even from an infinite bound."""
    if np.isfinite(values).all():
        return np.asarray(np.tensordot(values, coefficients, values.ndim), np.float64)
    with np.errstate(invalid="ignore"):
        terms = np.where(coefficients == 0, 0.0, coefficients * values[..., None])
    return terms.sum(axis=tuple(range(values.ndim)))


ROWS_AT_ONCE = 2**23
"""Entries of the widest coefficient array: 64 MiB of float64."""


def neuron_bounds(tracer: Tracer, name: str, channels: Sequence[int], position: tuple[int, ...]) -> tuple[F64, F64]:
    """Lower and upper bounds of some channels of a tensor at one position."""
    shape = tracer.shape(name)
    window: Window = tuple((p, p + 1) for p in position)
    chosen = np.asarray(channels)
    widest = max((int(np.prod(tracer.shape(n))) for node in tracer.ancestors(name) for n in node.inputs), default=1)
    step = max(1, ROWS_AT_ONCE // max(widest, 1) // 2)
    low, high = list[F64](), list[F64]()
    for part in np.array_split(chosen, -(-len(chosen) // step)):
        rows = len(part)
        seed = np.zeros((shape[0], 2 * rows))
        seed[part, np.arange(rows)] = 1
        seed[part, rows + np.arange(rows)] = -1
        found = tracer.lowest(name, Form(seed.reshape(shape[0], *(1,) * len(window), 2 * rows), window))
        low.append(found[:rows])
        high.append(-found[rows:])
    return np.concatenate(low), np.concatenate(high)


EXACT = dict.fromkeys(
    (Conv, ConvTranspose, Dense, Affine, BiasMap, Add, Identity, Flatten, Select, Slice, Upsample, Pad, Concat),
    "linear: the form is traced through it exactly",
)
"""Classes that `adjoint.PULL` has a rule for whatever their fields are."""
RELAXED: Table[Callable[[Tracer, Node, Form], tuple[list[Form], F64] | None]] = Table(
    "linear relaxations",
    {Activation: Tracer.through, Pool: Tracer.maximum, GlobalPool: Tracer.maximum},
    {**EXACT, Product: "bounded by its interval: the planes around a product are not made here",
     Foreign: "nothing is known of it"},
)
"""A rule may find that it has none for the fields at hand (None): a softmax."""

__all__ = ["Form", "Tracer", "neuron_bounds", "winners"]
