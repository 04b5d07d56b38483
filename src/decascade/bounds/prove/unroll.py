"""One neuron and its receptive field, unrolled to affine functions of its inputs and of ReLUs.

Every piecewise-linear activation is an affine function plus Σ Δslope_k·relu(z − t_k) over its breakpoints t_k.  Entries that
bounds show to stay in one regime are substituted; what is left are as many ReLUs as entries are not stable.  The float32
slack of the operations in between becomes an error of every argument z (see `interval`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from decascade.bounds.adjoint import Form, can_pull, merged, pull
from decascade.bounds.backward import Tracer
from decascade.bounds.forward import column
from decascade.bounds.regimes import regime_of, regimes
from decascade.errors import CannotInterpret
from decascade.ir.graph import Node
from decascade.ir.ops import Activation
from decascade.typing import F64, Ints

Index = tuple[int, ...]
Entries = tuple[Ints, Ints, F64]
"""Row, column and value of the entries of a sparse matrix, those of one place to be added up."""

GUARD = 1e-4
"""Share of a neuron's range by which its value is lowered, far more than what solvers and float64 sums are off by."""
MOST_COLUMNS = 6000
MOST_ENTRIES = 2_000_000


@dataclass(frozen=True, eq=False)
class Unrolled:
    """Columns, each between `lower` and `upper` (width,): `inputs` (m,); `arguments` z (k,), those of earlier layers first; and
    `relus` (n,), of which each is relu(z − threshold) of the argument number `source`.

    `rows`: z_row = Σ factor·column + middle ± error, (k,).  `cost` (width,) and `constant`: the neuron, times the direction,
    is nowhere below cost·columns + constant.  `layer`: of each argument, a number that grows along the graph.
    `places`: the entries of each graph input that have columns, and these.
    """

    lower: F64
    upper: F64
    inputs: Ints
    arguments: Ints
    relus: Ints
    source: Ints
    threshold: F64
    layer: Ints
    rows: Entries
    middle: F64
    error: F64
    cost: F64
    constant: float
    places: Mapping[str, tuple[tuple[Ints, ...], Ints]]
    shapes: Mapping[str, tuple[int, ...]]

    def picture(self, columns: F64) -> dict[str, F64]:
        """The inputs (C, *S) that given columns (width,) stand for, NaN where there is none."""
        found = {name: np.full(shape, np.nan) for name, shape in self.shapes.items()}
        for name, (at, which) in self.places.items():
            found[name][at] = columns[which]
        return found


def unroll(tracer: Tracer, tensor: str, channel: int, position: Index, direction: int) -> Unrolled:
    """One neuron, times a direction of 1 or −1.

    Raises:
        CannotInterpret: an operation that is not piecewise linear, a tensor that is not bounded, or too many columns.
    """
    bounds, at = tracer.bounds[tensor], (channel, *position)
    scale = max(abs(float(bounds.lo[at])), abs(float(bounds.hi[at])), 1e-9)
    if not np.isfinite(scale):
        raise CannotInterpret(f"{tensor} is not bounded")
    seed = np.zeros((tracer.shape(tensor)[0], *(1,) * len(position), 1))
    seed[channel] = direction
    return _Unroller(tracer).unrolled(tensor, Form(seed, tuple((p, p + 1) for p in position)), GUARD * scale)


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


class _Rows(NamedTuple):
    """Arguments of one layer: z = Σ entries + middle ± error."""

    layer: int
    arguments: Ints
    entries: Entries
    middle: F64
    error: F64


@dataclass(eq=False)
class _Unroller:
    """Columns and rows that are made backwards from the neuron in question."""

    tracer: Tracer
    lower: list[F64] = field(default_factory=list[F64])
    upper: list[F64] = field(default_factory=list[F64])
    width: int = 0
    inputs: list[Ints] = field(default_factory=list[Ints])
    relus: list[tuple[Ints, Ints, F64]] = field(default_factory=list[tuple[Ints, Ints, F64]])
    rows: list[_Rows] = field(default_factory=list[_Rows])
    made: dict[str, _Made] = field(default_factory=dict[str, _Made])
    waiting: dict[str, list[Ints]] = field(default_factory=dict[str, list[Ints]])
    stable: dict[str, tuple[F64, F64, NDArray[np.bool_]]] = field(
        default_factory=dict[str, tuple[F64, F64, NDArray[np.bool_]]])

    def unrolled(self, tensor: str, seed: Form, guard: float) -> Unrolled:
        forms, shift, error = self._traced(tensor, seed)
        (_, columns, factors), constant = self._terms(forms)
        self._finish()
        cost = np.zeros(self.width)
        np.add.at(cost, columns, factors)
        self.rows.reverse()  # they were made from the last layer to the first
        arguments = _ints([r.arguments for r in self.rows])
        starts = np.cumsum([0, *(len(r.arguments) for r in self.rows)])
        entries = (
            _ints([r.entries[0] + start for r, start in zip(self.rows, starts, strict=False)]),
            _ints([r.entries[1] for r in self.rows]), _reals([r.entries[2] for r in self.rows]),
        )
        number = np.zeros(self.width, np.int64)
        number[arguments] = np.arange(len(arguments))
        there = {name: np.nonzero(self.made[name].there) for name in self.tracer.graph.inputs if name in self.made}
        return Unrolled(
            _reals(self.lower), _reals(self.upper), _ints(self.inputs), arguments, _ints([r for _, r, _ in self.relus]),
            number[_ints([z for z, _, _ in self.relus])], _reals([t for _, _, t in self.relus]),
            _ints([np.full(len(r.arguments), r.layer) for r in self.rows]), entries, _reals([r.middle for r in self.rows]),
            _reals([r.error for r in self.rows]), cost, float(shift[0] - error[0] + constant[0]) - guard,
            {name: (at, self.made[name].columns[(0, *at)]) for name, at in there.items()},
            {name: self.tracer.shape(name) for name in there},
        )

    def _columns(self, lo: F64, hi: F64) -> Ints:
        """New columns, and their numbers."""
        self.lower.append(lo)
        self.upper.append(hi)
        self.width += len(lo)
        if self.width > MOST_COLUMNS:
            raise CannotInterpret("too many unstable neurons")
        return np.arange(self.width - len(lo), self.width)

    def _traced(self, tensor: str, seed: Form) -> tuple[dict[str, Form], F64, F64]:
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
            if can_pull(node.op):
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

    def _terms(self, forms: Mapping[str, Form]) -> tuple[Entries, F64]:
        """(row, column, factor) of the forms' rows, and the constants; columns are made where they are missing."""
        rows, columns, factors = list[Ints](), list[Ints](), list[F64]()
        constant = np.zeros(next(iter(forms.values())).coefficients.shape[-1])
        for name, form in forms.items():
            used = np.any(form.coefficients != 0, axis=-1)
            if not used.any():
                continue
            made = self._entries(name, form, used)
            here = (made.columns[(slice(None), *form.where)], made.factors[(slice(None), *form.where)])
            constant += np.tensordot(np.where(used, made.shift[form.where], 0.0), form.coefficients, used.ndim)
            *at, row = np.nonzero(form.coefficients)
            a = form.coefficients[(*at, row)]
            for columns_of, factors_of in zip(*here, strict=True):
                rows.append(row)
                columns.append(columns_of[tuple(at)])
                factors.append(a * factors_of[tuple(at)])
        return (_ints(rows), _ints(columns), _reals(factors)), constant

    def _entries(self, name: str, form: Form, used: NDArray[np.bool_]) -> _Made:
        """The tensor's entries, with those that are used there."""
        node, shape = self.tracer.graph.producer.get(name), self.tracer.shape(name)
        pieces = 1 if node is None or not isinstance(node.op, Activation) else len(regimes(node.op, shape[0]))
        made = self.made.setdefault(name, _Made.of(shape, max(pieces, 1)))
        wanted = np.zeros(shape, np.bool_)
        wanted[form.where] = used
        missing = np.nonzero(wanted & ~made.there)
        if len(missing[0]):
            self._make(name, node, made, missing)
            made.there |= wanted
        return made

    def _make(self, name: str, node: Node | None, made: _Made, at: tuple[Ints, ...]) -> None:
        """Columns of some entries: of inputs, or z of unstable neurons and a relu(z − t) per breakpoint."""
        bounds = self.tracer.bounds[name if node is None else node.inputs[0]]
        lo, hi = bounds.lo[at], bounds.hi[at]
        made.columns[(0, *at)] = z = self._columns(lo, hi)
        made.factors[(0, *at)] = 1
        if node is None:
            self.inputs.append(z)
            return
        pieces = regimes(node.op, len(bounds.lo)) if isinstance(node.op, Activation) else ()
        slopes = [p.slope[at[0]] for p in pieces if p.slope is not None]
        if not pieces or len(slopes) < len(pieces) or not (np.isfinite(lo) & np.isfinite(hi)).all():
            raise CannotInterpret(f"{node.name} is curved, or not bounded")
        made.factors[(0, *at)], made.shift[at] = slopes[0], pieces[0].shift
        for i, ((_, after), (s, t)) in enumerate(zip(pairwise(pieces), pairwise(slopes), strict=True), start=1):
            made.columns[(i, *at)] = r = self._columns(np.zeros(len(z)), np.maximum(hi - after.lo, 0))
            made.factors[(i, *at)] = t - s
            self.relus.append((z, r, np.full(len(z), after.lo)))
        self.waiting.setdefault(name, []).append(np.stack(at))

    def _finish(self) -> None:
        """The rows z = Σ of all neurons that have columns, last layer first, so that each layer is met once."""
        for layer, node in reversed(list(enumerate(self.tracer.graph.nodes))):
            if node.output not in self.waiting:
                continue
            entries = np.concatenate(self.waiting.pop(node.output), axis=1)
            for position in np.unique(entries[1:], axis=1).T if len(entries) > 1 else np.zeros((1, 0), np.int64):
                here = (entries[1:] == position[:, None]).all(axis=0)
                self._arguments(layer, node, entries[0, here], tuple(int(p) for p in position))

    def _arguments(self, layer: int, node: Node, channels: Ints, position: Index) -> None:
        n = len(channels)
        seed = np.zeros((self.tracer.shape(node.output)[0], *(1,) * len(position), n))
        seed[(channels, *(0,) * len(position), np.arange(n))] = 1
        forms, shift, error = self._traced(node.inputs[0], Form(seed, tuple((p, p + 1) for p in position)))
        entries, constant = self._terms(forms)
        arguments = self.made[node.output].columns[(0, channels, *position)]
        self.rows.append(_Rows(layer, arguments, entries, shift + constant, error))


def _ints(parts: Sequence[Ints]) -> Ints:
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _reals(parts: Sequence[F64]) -> F64:
    return np.concatenate([np.zeros(0), *parts])
