"""One neuron decided exactly: a mixed-integer linear program over its receptive field (Tjeng et al. 2019), by HiGHS.

Every piecewise-linear activation is an affine function plus Σ Δslope_k·relu(z − t_k) over its breakpoints t_k; each of
these ReLUs, where its argument may have both signs, takes one binary variable.  Entries that bounds show to stay in one
regime are substituted.  The float32 slack of the operations in between widens every equality (see `interval`).

HiGHS works with tolerances (1e-6 on integers, 1e-7 on constraints): a proof is taken only where the program is
infeasible beyond `GUARD` of the neuron's range, which is far more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from itertools import pairwise
from math import isfinite
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from decascade.bounds.adjoint import Form, merged, pull
from decascade.bounds.backward import Tracer
from decascade.bounds.forward import is_linear
from decascade.bounds.regimes import Regime, regime_of, regimes
from decascade.errors import CannotInterpret
from decascade.ir.graph import Node
from decascade.ir.ops import Activation

F64 = NDArray[np.float64]
GUARD = 1e-4
"""Share of a neuron's range by which it must stay away from the threshold."""
MOST_BINARIES = 600
MOST_ENTRIES = 2_000_000

Index = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Answer:
    """`proved`: the neuron stays beyond the threshold.  `inputs`: otherwise, where the solver found it going below."""

    verdict: Literal["proved", "found", "unknown"]
    inputs: Mapping[str, F64] | None = None


@dataclass(eq=False)
class _Program:
    """Columns (with bounds and integrality) and rows lo ≤ a·x ≤ hi, as lists."""

    lower: list[float] = field(default_factory=list[float])
    upper: list[float] = field(default_factory=list[float])
    integer: list[int] = field(default_factory=list[int])
    entries: list[tuple[int, int, float]] = field(default_factory=list[tuple[int, int, float]])
    low: list[float] = field(default_factory=list[float])
    high: list[float] = field(default_factory=list[float])

    def column(self, lo: float, hi: float, integer: bool = False) -> int:
        self.lower.append(lo)
        self.upper.append(hi)
        self.integer.append(int(integer))
        return len(self.lower) - 1

    def row(self, terms: Mapping[int, float], lo: float, hi: float) -> None:
        self.entries += [(len(self.low), c, a) for c, a in terms.items() if a]
        self.low.append(lo)
        self.high.append(hi)


@dataclass(eq=False)
class _Neuron:
    """The columns of one neuron's argument and of its relu(z − t) parts, with what the activation makes of them."""

    terms: dict[int, float]
    shift: float


def lowest_reaches(
    tracer: Tracer, tensor: str, channel: int, position: Index, threshold: float, direction: int, seconds: float
) -> Answer:
    """Whether direction · neuron stays above direction · threshold on the whole box.

    "unknown" where the program is too large, the time is not enough, or an operation has no such form.
    """
    shape = tracer.shape(tensor)
    seed = np.zeros((shape[0], *(1,) * len(position), 1))
    seed[channel] = direction
    try:
        build = _Build(tracer)
        row, shift, error = build.rows(tensor, Form(seed, tuple((p, p + 1) for p in position)))
        terms = build.columns(row)[0]
    except CannotInterpret:
        return Answer("unknown")
    bounds = tracer.bounds[tensor]
    scale = max(abs(float(bounds.lo[(channel, *position)])), abs(float(bounds.hi[(channel, *position)])), 1e-9)
    if not isfinite(scale):
        return Answer("unknown")
    limit = direction * threshold + GUARD * scale - float(shift[0]) + float(error[0])
    build.program.row(terms, -np.inf, limit)
    return _solve(build, terms, seconds)


@dataclass(eq=False)
class _Build:
    """A program that grows backwards from the neuron in question."""

    tracer: Tracer
    program: _Program = field(default_factory=_Program)
    inputs: dict[str, dict[Index, int]] = field(default_factory=dict[str, dict[Index, int]])
    neurons: dict[str, dict[Index, _Neuron]] = field(default_factory=dict[str, dict[Index, _Neuron]])
    stable: dict[str, NDArray[np.int8]] = field(default_factory=dict[str, NDArray[np.int8]])

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
        op, a = node.op, form.coefficients
        assert isinstance(op, Activation)
        source = self.tracer.bounds[node.inputs[0]]
        pieces = regimes(op, len(source.lo))
        if node.output not in self.stable:
            self.stable[node.output] = regime_of(pieces, source.lo, source.hi)
        stable = self.stable[node.output][form.where]
        slope, shift = np.zeros(stable.shape), np.zeros(stable.shape)
        for i, piece in enumerate(pieces):
            if piece.slope is not None:
                rows = np.broadcast_to(piece.slope.reshape(-1, *(1,) * (stable.ndim - 1)), stable.shape)
                slope = np.where(stable == i, rows, slope)
                shift = np.where(stable == i, piece.shift, shift)
        leaf = Form(np.where((stable < 0)[..., None], a, 0.0), form.window)
        leaves[node.output] = merged(leaves[node.output], leaf) if node.output in leaves else leaf
        return [Form(a * slope[..., None], form.window)], np.tensordot(shift, a, shift.ndim)

    def columns(self, forms: Mapping[str, Form]) -> list[dict[int, float]]:
        """Per row the columns of its forms; columns are made where they are missing.  Constants join a fixed column."""
        count = next(iter(forms.values())).coefficients.shape[-1]
        rows: list[dict[int, float]] = [{} for _ in range(count)]
        for name, form in forms.items():
            used = np.argwhere(np.any(form.coefficients != 0, axis=-1))
            inside = [tuple(int(i) for i in at) for at in used]
            found = [(at, (at[0], *(p + w[0] for p, w in zip(at[1:], form.window, strict=True)))) for at in inside]
            made = self._made(name, [where for _, where in found])
            for at, where in found:
                for row, a in zip(rows, form.coefficients[at], strict=True):
                    if a:
                        for column, factor in made[where].terms.items():
                            row[column] = row.get(column, 0.0) + a * factor
        return rows

    def _made(self, name: str, wanted: list[Index]) -> dict[Index, _Neuron]:
        known = self.neurons.setdefault(name, {})
        missing = [w for w in wanted if w not in known]
        node = self.tracer.graph.producer.get(name)
        if node is None:
            bounds = self.tracer.bounds[name]
            for where in missing:
                column = self.program.column(float(bounds.lo[where]), float(bounds.hi[where]))
                self.inputs.setdefault(name, {})[where] = column
                known[where] = _Neuron({column: 1.0}, 0.0)
        elif missing:
            if not isinstance(node.op, Activation):
                raise CannotInterpret(f"{node.name} has no piecewise-linear form")
            self._neurons(node, missing, known)
        return known

    def _neurons(self, node: Node, missing: list[Index], known: dict[Index, _Neuron]) -> None:
        """Columns of neurons that are not stable: z, and a relu(z − t) per breakpoint that lies within its bounds."""
        op, bounds = node.op, self.tracer.bounds[node.inputs[0]]
        assert isinstance(op, Activation)
        pieces = regimes(op, len(bounds.lo))
        if any(p.slope is None for p in pieces) or sum(self.program.integer) + len(missing) > MOST_BINARIES:
            raise CannotInterpret(f"{node.name} is curved, or too many of its neurons are unstable")
        window = tuple((min(p), max(p) + 1) for p in zip(*(w[1:] for w in missing), strict=True))
        seed = np.zeros((len(bounds.lo), *(b - a for a, b in window), len(missing)))
        if seed.size > MOST_ENTRIES:
            raise CannotInterpret(f"{node.name} has too many unstable neurons")
        for n, where in enumerate(missing):
            seed[(where[0], *(p - w[0] for p, w in zip(where[1:], window, strict=True)), n)] = 1
        forms, shift, error = self.rows(node.inputs[0], Form(seed, window))
        for where, terms, constant, e in zip(missing, self.columns(forms), shift, error, strict=True):
            lo, hi = float(bounds.lo[where]), float(bounds.hi[where])
            if not (isfinite(lo) and isfinite(hi)):
                raise CannotInterpret(f"{node.name} is not bounded")
            z = self.program.column(lo, hi)
            self.program.row({**{c: -a for c, a in terms.items()}, z: 1.0}, constant - e, constant + e)
            known[where] = self._activated(pieces, where[0], z, lo, hi)

    def _activated(self, pieces: tuple[Regime, ...], channel: int, z: int, lo: float, hi: float) -> _Neuron:
        first = pieces[0]
        assert first.slope is not None
        terms, one = {z: float(first.slope[channel])}, self._one()
        terms[one] = first.shift
        for before, after in pairwise(pieces):
            assert before.slope is not None
            assert after.slope is not None
            t, change = after.lo, float(after.slope[channel] - before.slope[channel])
            if t <= lo:
                terms[z] += change
                terms[one] -= change * t
            elif t < hi:
                r, d = self.program.column(0.0, hi - t), self.program.column(0, 1, integer=True)
                # r = relu(z − t): r ≥ z − t, r ≤ z − t + (t − lo)(1 − d), r ≤ (hi − t)·d
                self.program.row({r: 1.0, z: -1.0}, -t, np.inf)
                self.program.row({r: 1.0, z: -1.0, d: t - lo}, -np.inf, -lo)
                self.program.row({r: 1.0, d: t - hi}, -np.inf, 0.0)
                terms[r] = terms.get(r, 0.0) + change
        return _Neuron(terms, 0.0)

    def _one(self) -> int:
        constants = self.inputs.setdefault("", {})
        if () not in constants:
            constants[()] = self.program.column(1.0, 1.0)
        return constants[()]


def _solve(build: _Build, objective: Mapping[int, float], seconds: float) -> Answer:
    optimize: Any = import_module("scipy.optimize")
    sparse: Any = import_module("scipy.sparse")
    p = build.program
    rows, columns, values = zip(*p.entries, strict=True) if p.entries else ((), (), ())
    matrix = sparse.csr_array((values, (rows, columns)), shape=(len(p.low), len(p.lower)))
    cost = np.zeros(len(p.lower))
    for column, a in objective.items():
        cost[column] = a
    found = optimize.milp(
        cost, integrality=np.array(p.integer), bounds=optimize.Bounds(np.array(p.lower), np.array(p.upper)),
        constraints=optimize.LinearConstraint(matrix, np.array(p.low), np.array(p.high)),
        options={"time_limit": max(seconds, 0.05)},
    )
    if found.status == 2:
        return Answer("proved")
    if found.x is None:
        return Answer("unknown")
    inputs = {name: np.full(build.tracer.shape(name), np.nan) for name in build.inputs if name}
    for name, array in inputs.items():
        for where, column in build.inputs[name].items():
            array[where] = found.x[column]
    return Answer("found", inputs)
