"""The lowest value of one neuron: a mixed-integer linear program over its receptive field (Tjeng et al. 2019), by HiGHS.

Every piecewise-linear activation is an affine function plus Σ Δslope_k·relu(z − t_k) over its breakpoints t_k; each of
these ReLUs, where its argument may have both signs, takes one variable r between max(0, z − t) and its chord, and, near
the neuron in question, a binary one that makes it exact.  Entries that bounds show to stay in one regime are
substituted.  The float32 slack of the operations in between widens every equality (see `interval`).

HiGHS works with tolerances (1e-6 on integers, 1e-7 on constraints): what it returns is lowered by `GUARD` of the neuron's
range, which is far more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.bounds.adjoint import Form, merged, pull
from decascade.bounds.backward import Tracer
from decascade.bounds.forward import column, is_linear
from decascade.bounds.regimes import regime_of, regimes
from decascade.errors import CannotInterpret
from decascade.ir.graph import Node
from decascade.ir.ops import Activation

F64 = NDArray[np.float64]
Ints = NDArray[np.int64]
GUARD = 1e-4
"""Share of a neuron's range by which every answer is widened."""
MOST_COLUMNS = 6000
MOST_ENTRIES = 2_000_000

Index = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Answer:
    """`bound`: the neuron, times the direction, is nowhere lower; −∞ where nothing was found out.  `settled`: it was asked
    whether the neuron gets past a value, and it does not.  `inputs`: where the solver found it lowest, NaN where that does
    not matter.  `ended`: the solver came to the end; all else is what it knew when the time was up."""

    bound: float
    settled: bool = False
    ended: bool = False
    inputs: Mapping[str, F64] | None = None


@dataclass(eq=False)
class _Program:
    """Columns (with bounds and integrality) and rows lo ≤ a·x ≤ hi, as they come."""

    lower: list[F64] = field(default_factory=list[F64])
    upper: list[F64] = field(default_factory=list[F64])
    integer: list[NDArray[np.bool_]] = field(default_factory=list[NDArray[np.bool_]])
    entries: list[tuple[Ints, Ints, F64]] = field(default_factory=list[tuple[Ints, Ints, F64]])
    low: list[F64] = field(default_factory=list[F64])
    high: list[F64] = field(default_factory=list[F64])
    width: int = 0
    height: int = 0
    binaries: int = 0

    def columns(self, lo: F64, hi: F64, integer: bool = False) -> Ints:
        """New columns, and their numbers."""
        self.lower.append(lo)
        self.upper.append(hi)
        self.integer.append(np.full(len(lo), integer))
        self.width += len(lo)
        self.binaries += integer * len(lo)
        if self.width > MOST_COLUMNS:
            raise CannotInterpret("too many unstable neurons")
        return np.arange(self.width - len(lo), self.width)

    def rows(self, terms: Sequence[tuple[Ints, Ints, F64]], low: F64, high: F64) -> None:
        """New rows; `terms` are (row counted from the first new one, column, factor)."""
        self.entries += [(rows + self.height, columns, factors) for rows, columns, factors in terms]
        self.low.append(low)
        self.high.append(high)
        self.height += len(low)


@dataclass(eq=False)
class _Made:
    """The entries of one tensor as Σ factor·column + shift: arrays (parts, C, *S), and whether an entry was made."""

    columns: Ints
    factors: F64
    shift: F64
    there: NDArray[np.bool_]

    @staticmethod
    def of(shape: tuple[int, ...], parts: int) -> _Made:
        return _Made(np.zeros((parts, *shape), np.int64), np.zeros((parts, *shape)), np.zeros(shape), np.zeros(shape, np.bool_))


def lowest(
    tracer: Tracer, tensor: str, channel: int, position: Index, direction: int, seconds: float,
    past: float | None = None, binaries: int = 600,
) -> Answer:
    """The lowest value of direction · neuron over the box, or a bound on it.

    `past`: only whether it gets to that value or below.  `binaries`: how many neurons, the nearest first, are exact; the
    rest are between a ReLU and its chord.
    """
    shape = tracer.shape(tensor)
    seed = np.zeros((shape[0], *(1,) * len(position), 1))
    seed[channel] = direction
    try:
        build = _Build(tracer, binaries)
        forms, shift, error = build.rows(tensor, Form(seed, tuple((p, p + 1) for p in position)))
        (_, columns, factors), constant = build.terms(forms)
        build.finish()
    except CannotInterpret:
        return Answer(-np.inf)
    bounds, at = tracer.bounds[tensor], (channel, *position)
    scale = max(abs(float(bounds.lo[at])), abs(float(bounds.hi[at])), 1e-9)
    if not np.isfinite(scale):
        return Answer(-np.inf)
    rest = float(shift[0] - error[0] + constant[0]) - GUARD * scale
    if past is not None:
        zero = np.zeros(len(columns), np.int64)
        build.program.rows([(zero, columns, factors)], np.array([-np.inf]), np.array([past - rest]))
    return _solve(build, columns, factors, rest, seconds, past)


@dataclass(eq=False)
class _Build:
    """A program that grows backwards from the neuron in question."""

    tracer: Tracer
    binaries: int
    program: _Program = field(default_factory=_Program)
    made: dict[str, _Made] = field(default_factory=dict[str, _Made])
    waiting: dict[str, list[Ints]] = field(default_factory=dict[str, list[Ints]])
    stable: dict[str, tuple[F64, F64, NDArray[np.bool_]]] = field(
        default_factory=dict[str, tuple[F64, F64, NDArray[np.bool_]]])

    def rows(self, tensor: str, seed: Form) -> tuple[dict[str, Form], F64, F64]:
        """A form traced to inputs and to activations that are not stable: the forms there, the constants, the errors."""
        forms, leaves = {tensor: seed}, dict[str, Form]()
        shift, error = np.zeros(seed.coefficients.shape[-1]), np.zeros(seed.coefficients.shape[-1])
        for node in self.tracer.ancestors(tensor):
            if len(node.outputs) != 1 or node.output not in forms:
                continue
            form = forms.pop(node.output)
            slack = self.tracer.bounds[node.output].slack[form.where]
            if not np.isfinite(slack).all() or form.coefficients.size > MOST_ENTRIES:
                raise CannotInterpret(f"{node.name} is too large or unknown")
            error += np.tensordot(slack, np.abs(form.coefficients), slack.ndim)
            if is_linear(node.op):
                back, constant = pull(node.op, form, [self.tracer.shape(n) for n in node.inputs])
            elif isinstance(node.op, Activation) and regimes(node.op, 1):
                back, constant = self._split(node, form, leaves)
            else:
                raise CannotInterpret(f"{node.name} has no piecewise-linear form")
            shift += constant
            for source, part in zip(node.inputs, back, strict=True):
                forms[source] = merged(forms[source], part) if source in forms else part
        return {**leaves, **forms}, shift, error

    def _split(self, node: Node, form: Form, leaves: dict[str, Form]) -> tuple[list[Form], F64]:
        """Stable entries go on as slope·x + shift; the others stay as leaves."""
        a, at = form.coefficients, form.where
        slope, shift, free = self._regime(node)
        leaf = Form(np.where(free[at][..., None], a, 0.0), form.window)
        leaves[node.output] = merged(leaves[node.output], leaf) if node.output in leaves else leaf
        return [Form(a * slope[at][..., None], form.window)], np.tensordot(shift[at], a, len(at))

    def _regime(self, node: Node) -> tuple[F64, F64, NDArray[np.bool_]]:
        """Slope and shift (C, *S) of an activation where it is stable, zero elsewhere; and where it is not."""
        if node.output not in self.stable:
            assert isinstance(node.op, Activation)
            source = self.tracer.bounds[node.inputs[0]]
            pieces = regimes(node.op, len(source.lo))
            index = regime_of(pieces, source.lo, source.hi)
            slope, shift = np.zeros(index.shape), np.zeros(index.shape)
            for i, piece in enumerate(pieces):
                if piece.slope is not None:
                    slope = np.where(index == i, column(piece.slope, index.ndim), slope)
                    shift = np.where(index == i, piece.shift, shift)
            self.stable[node.output] = slope, shift, index < 0
        return self.stable[node.output]

    def terms(self, forms: Mapping[str, Form]) -> tuple[tuple[Ints, Ints, F64], F64]:
        """(row, column, factor) of the forms' rows, and the constants; columns are made where they are missing."""
        rows, columns, factors = list[Ints](), list[Ints](), list[F64]()
        constant = np.zeros(next(iter(forms.values())).coefficients.shape[-1])
        for name, form in forms.items():
            used = np.any(form.coefficients != 0, axis=-1)
            if not used.any():
                continue
            made = self._made(name, form, used)
            here = (made.columns[(slice(None), *form.where)], made.factors[(slice(None), *form.where)])
            constant += np.tensordot(np.where(used, made.shift[form.where], 0.0), form.coefficients, used.ndim)
            *at, row = np.nonzero(form.coefficients)
            a = form.coefficients[(*at, row)]
            for columns_of, factors_of in zip(*here, strict=True):
                rows.append(row)
                columns.append(columns_of[tuple(at)])
                factors.append(a * factors_of[tuple(at)])
        if not rows:
            return (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)), constant
        return (np.concatenate(rows), np.concatenate(columns), np.concatenate(factors)), constant

    def _made(self, name: str, form: Form, used: NDArray[np.bool_]) -> _Made:
        """The tensor's entries, with those that are used there."""
        node, shape = self.tracer.graph.producer.get(name), self.tracer.shape(name)
        pieces = 1 if node is None or not isinstance(node.op, Activation) else len(regimes(node.op, shape[0]))
        made = self.made.setdefault(name, _Made.of(shape, max(pieces, 1)))
        wanted = np.zeros(shape, np.bool_)
        wanted[form.where] = used
        missing = np.nonzero(wanted & ~made.there)
        if len(missing[0]):
            self._columns(name, node, made, missing)
            made.there |= wanted
        return made

    def _columns(self, name: str, node: Node | None, made: _Made, at: tuple[Ints, ...]) -> None:
        """Columns of some entries: of inputs, or z of unstable neurons and a relu(z − t) per breakpoint."""
        bounds = self.tracer.bounds[name if node is None else node.inputs[0]]
        lo, hi = bounds.lo[at], bounds.hi[at]
        made.columns[(0, *at)] = z = self.program.columns(lo, hi)
        made.factors[(0, *at)] = 1
        if node is None:
            return
        pieces = regimes(node.op, len(bounds.lo)) if isinstance(node.op, Activation) else ()
        slopes = [p.slope[at[0]] for p in pieces if p.slope is not None]
        if not pieces or len(slopes) < len(pieces) or not (np.isfinite(lo) & np.isfinite(hi)).all():
            raise CannotInterpret(f"{node.name} is curved, or not bounded")
        made.factors[(0, *at)], made.shift[at] = slopes[0], pieces[0].shift
        for i, ((_, after), (s, t)) in enumerate(zip(pairwise(pieces), pairwise(slopes), strict=True), start=1):
            made.columns[(i, *at)] = self._relus(z, lo - after.lo, hi - after.lo, after.lo)
            made.factors[(i, *at)] = t - s
        self.waiting.setdefault(name, []).append(np.stack(at))

    def finish(self) -> None:
        """The rows z = Σ of all neurons that have columns, last layer first, so that each layer is met once."""
        for node in reversed(self.tracer.graph.nodes):
            if node.output not in self.waiting:
                continue
            entries = np.concatenate(self.waiting.pop(node.output), axis=1)
            for position in np.unique(entries[1:], axis=1).T if len(entries) > 1 else np.zeros((1, 0), np.int64):
                here = (entries[1:] == position[:, None]).all(axis=0)
                self._arguments(node, entries[0, here], tuple(int(p) for p in position))

    def _arguments(self, node: Node, channels: Ints, position: Index) -> None:
        n = len(channels)
        seed = np.zeros((self.tracer.shape(node.output)[0], *(1,) * len(position), n))
        seed[(channels, *(0,) * len(position), np.arange(n))] = 1
        forms, shift, error = self.rows(node.inputs[0], Form(seed, tuple((p, p + 1) for p in position)))
        (rows, columns, factors), constant = self.terms(forms)
        z, middle = self.made[node.output].columns[(0, channels, *position)], shift + constant
        self.program.rows([(rows, columns, -factors), (np.arange(n), z, np.ones(n))], middle - error, middle + error)

    def _relus(self, z: Ints, lo: F64, hi: F64, t: float) -> Ints:
        """Columns for relu(z − t), lo ≤ z − t ≤ hi: exact ones for those whose chord is farthest off, as many as may be."""
        off = np.where((lo < 0) & (hi > 0), -lo * hi / np.maximum(hi - lo, 1e-300), -1.0)
        order = np.argsort(-off, kind="stable")
        exact = np.zeros(len(z), np.bool_)
        exact[order[: max(self.binaries - self.program.binaries, 0)]] = True
        exact &= off > 0
        found = np.empty(len(z), np.int64)
        for pick in (exact, ~exact):
            if pick.any():
                found[pick] = self._relu(z[pick], lo[pick], hi[pick], t, bool(exact[pick][0]))
        return found

    def _relu(self, z: Ints, lo: F64, hi: F64, t: float, exact: bool) -> Ints:
        """r = relu(z − t), lo ≤ z − t ≤ hi: r ≥ z − t and r ≤ (z − t − lo)·hi/(hi − lo), or with a binary d instead
        r ≤ z − t − lo(1 − d) and r ≤ hi·d."""
        n, p = len(z), self.program
        every, one, low, high = np.arange(n), np.ones(n), np.minimum(lo, 0), np.maximum(hi, 0)
        r = p.columns(np.zeros(n), high)
        p.rows([(every, r, one), (every, z, -one)], np.full(n, -t), np.full(n, np.inf))
        if exact:
            d = p.columns(np.zeros(n), one, integer=True)
            p.rows([(every, r, one), (every, z, -one), (every, d, -low)], np.full(n, -np.inf), -low - t)
            p.rows([(every, r, one), (every, d, -high)], np.full(n, -np.inf), np.zeros(n))
        else:
            steep = high / np.maximum(high - low, 1e-300)
            p.rows([(every, r, one), (every, z, -steep)], np.full(n, -np.inf), -steep * (low + t))
        return r


def _solve(build: _Build, columns: Ints, factors: F64, rest: float, seconds: float, past: float | None) -> Answer:
    optimize: Any = import_module("scipy.optimize")
    sparse: Any = import_module("scipy.sparse")
    p = build.program
    if not p.width:  # a constant neuron: it depends on no input
        return Answer(rest, settled=past is not None and rest > past, ended=True)
    none = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    rows, cols, values = zip(none, *p.entries, strict=True)
    entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(cols))
    matrix = sparse.csr_array(entries, shape=(p.height, p.width))
    cost = np.zeros(p.width)
    np.add.at(cost, columns, factors)
    low, high, lower, upper = (np.concatenate(a) if a else np.zeros(0) for a in (p.low, p.high, p.lower, p.upper))
    found = optimize.milp(
        cost, integrality=np.concatenate(p.integer).astype(np.int64), bounds=optimize.Bounds(lower, upper),
        constraints=optimize.LinearConstraint(matrix, low, high), options={"time_limit": max(seconds, 0.05)},
    )
    if found.status == 2 and past is not None:
        return Answer(past, settled=True, ended=True)
    dual = found.mip_dual_bound if p.binaries else found.fun if found.status == 0 else None
    bound = -np.inf if dual is None or not np.isfinite(dual) else float(dual) + rest
    settled, ended = past is not None and bound > past, found.status == 0
    if found.x is None:
        return Answer(bound, settled, ended)
    inputs = {name: np.full(build.tracer.shape(name), np.nan) for name in build.made if name in build.tracer.graph.inputs}
    for name, array in inputs.items():
        there = build.made[name].there
        array[there] = found.x[build.made[name].columns[0][there]]
    return Answer(bound, settled, ended, inputs)
