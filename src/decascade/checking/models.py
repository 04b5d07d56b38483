"""Two models on the same inputs: how far apart, where, and whether rounding explains it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from math import prod, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.checking.rounding import LAMBDA, Rounded, largest, least_of, run_rounded, terms, unit_of
from decascade.checking.samples import Batch
from decascade.errors import CannotInterpret, UsageError, VerificationError
from decascade.formats.base import Document, Format
from decascade.ir.graph import Graph
from decascade.ir.interpret import run
from decascade.ir.ops import Foreign
from decascade.ir.shapes import compatible, show
from decascade.report.facts.report import VerificationFacts, Worst

Outputs = dict[str, NDArray[Any]]
Progress = Callable[[str, float], None]
@dataclass(frozen=True, eq=False)
class Subject:
    """A model under test, and how to run it."""

    format: Format
    document: Document

    @property
    def graph(self) -> Graph:
        return self.document.graph

    def framework(self, batch: Batch) -> Outputs:
        """Outputs of the framework itself in the graph's layout.

        Raises:
            ImportError: it is not installed.
            Exception: whatever the framework raises on a model or an input that it cannot run.
        """
        native = {name: _to_native(self, name, array) for name, array in batch.items()}
        found = self.format.run(self.document.native, native)
        return {name: np.asarray(self.format.to_graph(self.document, name, found[name])) for name in self.graph.outputs}

    def from_native(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """An input in the model's own layout, in the graph's."""
        return np.asarray(self.format.to_graph(self.document, name, array))

    def oracle(self, batch: Batch, rng: np.random.Generator) -> Rounded | None:
        """Outputs in float64 and what rounding does to them; None where an operation has no meaning in NumPy."""
        try:
            with np.errstate(all="ignore"):
                return run_rounded(self.graph, batch, rng)
        except CannotInterpret:
            return None

    def reference(self, batch: Batch) -> Outputs | None:
        """Outputs in float64 alone, in a fraction of the time."""
        try:
            with np.errstate(all="ignore"):
                return run(self.graph, batch)
        except CannotInterpret:
            return None

    @property
    def interpretable(self) -> bool:
        """Whether every operation has a meaning in NumPy."""
        return not any(isinstance(node.op, Foreign) and node.op.evaluate is None for node in self.graph.nodes)


def _to_native(subject: Subject, name: str, array: NDArray[Any]) -> NDArray[Any]:
    return array.transpose(native_order(subject, name, array.ndim))


def native_order(subject: Subject, name: str, rank: int) -> tuple[int, ...]:
    """The graph's axes of an input in the order of the model's own layout: what undoes `Format.to_graph`, which only moves
    axes, tried on numbered entries."""
    for order in permutations(range(1, rank)):
        axes = (0, *order)
        small = tuple(range(2, 2 + rank))
        numbered = np.arange(prod(small)).reshape(small)
        back = subject.format.to_graph(subject.document, name, numbered.transpose(axes))
        if back.shape == small and np.array_equal(back, numbered):
            return axes
    return tuple(range(rank))


def paired(a: Subject, b: Subject) -> tuple[dict[str, str], dict[str, str]]:
    """Inputs and outputs of `a`, and which of `b` each belongs to: by name where the names agree, else by order.

    Raises:
        UsageError: another number of them, or shapes that do not agree (layouts aside).
    """
    pairs = list[dict[str, str]]()
    for kind, mine, other in (("input", a.graph.inputs, b.graph.inputs), ("output", a.graph.outputs, b.graph.outputs)):
        if len(mine) != len(other):
            raise UsageError(f"the models have {len(mine)} and {len(other)} {kind}s: they cannot be the same function")
        found = {n: n for n in mine} if set(mine) == set(other) else dict(zip(mine, other, strict=True))
        for x, y in found.items():
            if not compatible(a.graph.shape(x), b.graph.shape(y)):
                shapes = f"{show(a.graph.shape(x))} and {show(b.graph.shape(y))}"
                raise UsageError(f"{kind} {x} has shapes {shapes} (channels first): the models cannot be the same function")
        pairs.append(found)
    return pairs[0], pairs[1]


@dataclass
class _Tally:
    """The running maxima of a comparison."""

    difference: dict[str, float] = field(default_factory=dict[str, float])
    scale: dict[str, float] = field(default_factory=dict[str, float])
    squares: list[float] = field(default_factory=list[float])
    worst: Worst | None = None
    samples: int = 0

    def add(self, a: Outputs, b: Mapping[str, NDArray[Any]]) -> None:
        for name, x in a.items():
            y = b[name]
            if x.shape != y.shape:
                raise VerificationError(f"output {name} has shape {x.shape} in one model and {y.shape} in the other")
            gap = distance(x, y)
            finite = np.abs(x[np.isfinite(x)]) if x.dtype.kind == "f" else np.abs(x)
            self.scale[name] = max(self.scale.get(name, 0.0), float(finite.max(initial=0)))
            largest = float(gap.max(initial=0.0))
            self.squares.append(float(np.mean((gap / (finite.max(initial=0) or 1.0)) ** 2)) if gap.size else 0.0)
            if self.worst is None or largest > max(self.difference.values(), default=0.0):
                at = tuple(int(i) for i in np.unravel_index(int(np.argmax(gap)), gap.shape))
                self.worst = Worst(name, (at[0] + self.samples, *at[1:]) if at else (), float(x[at]), float(y[at]))
            self.difference[name] = max(self.difference.get(name, 0.0), largest)
        self.samples += max((len(x) for x in a.values() if x.ndim), default=1)

    @property
    def max_abs(self) -> float:
        return max(self.difference.values(), default=0.0)

    @property
    def rms(self) -> float:
        """Root mean square difference, each output of each batch measured by its largest value."""
        return sqrt(sum(self.squares) / max(len(self.squares), 1))

    @property
    def max_rel(self) -> float:
        return max((d / self.scale[n] if self.scale[n] else float(d > 0) for n, d in self.difference.items()), default=0.0)

    def within(self, allowed: Mapping[str, float]) -> bool:
        return all(d <= allowed[name] for name, d in self.difference.items())

    def limit(self, allowed: Mapping[str, float]) -> float:
        """What is allowed at the output that differs most."""
        return allowed[self.worst.output] if self.worst else 0.0


def widen(allowed: dict[str, float], mine: Mapping[str, float], theirs: Mapping[str, float]) -> None:
    """Raise the limits to what rounding in both models does together."""
    for name in mine:
        allowed[name] = max(allowed.get(name, 0.0), mine[name] + theirs.get(name, 0.0))


def distance(x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    """|x − y|; 0 where both are the same infinity or not a number, infinite where only one is."""
    a, b = x.astype(np.float64), y.astype(np.float64)
    with np.errstate(invalid="ignore"):
        gap = np.abs(a - b)
    gap[(a == b) | (np.isnan(a) & np.isnan(b))] = 0.0
    gap[np.isnan(gap)] = np.inf
    return gap


@dataclass
class _Tallies:
    """Framework against framework, float64 against float64, and each framework against the first model's float64."""

    framework: _Tally = field(default_factory=_Tally)
    exact: _Tally = field(default_factory=_Tally)
    fp32_a: _Tally = field(default_factory=_Tally)
    fp32_b: _Tally = field(default_factory=_Tally)
    allowed: dict[str, float] = field(default_factory=dict[str, float])
    stored: dict[str, float] = field(default_factory=dict[str, float])

    def add(self, fa: Outputs | None, fb: Outputs | None, oa: Outputs | None, ob: Outputs | None) -> None:
        for tally, one, two in ((self.framework, fa, fb), (self.exact, oa, ob), (self.fp32_a, oa, fa), (self.fp32_b, oa, fb)):
            if one is not None and two is not None:
                tally.add(one, two)

    def facts(self, notes: tuple[str, ...]) -> VerificationFacts:
        main = self.framework if self.framework.samples else self.exact
        if not main.samples:
            told = "; ".join(notes) or "an operation has no meaning in NumPy"
            raise UsageError(f"the model can be run neither by its framework nor in NumPy, so nothing can be verified: {told}")
        return VerificationFacts(
            same=self.framework.within(self.allowed) and self.fp32_b.within(self.allowed) and self.exact.within(self.stored),
            max_abs=main.max_abs,
            max_rel=main.max_rel,
            tolerance=main.limit(self.allowed if main is self.framework else self.stored),
            samples=main.samples,
            by="framework" if self.framework.samples else "float64",
            worst=main.worst,
            exact_error=self.exact.max_abs if self.exact.samples else None,
            exact_tolerance=self.exact.limit(self.stored) if self.exact.samples else None,
            original_fp32_error=self.fp32_a.rms if self.fp32_a.samples else None,
            merged_fp32_error=self.fp32_b.rms if self.fp32_b.samples else None,
            notes=notes,
        )


@dataclass(frozen=True)
class Plan:
    """What to run the models on, whether their frameworks can, and if not, why.

    The float64 interpreter is many times slower than a framework: `oracle` is how many of the batches both models and
    what rounding does to them are run on, `reference` how many the first model alone.  `unrun`: why the framework is not
    asked.
    """

    batches: Sequence[Batch]
    framework: bool = True
    oracle: int = 1 << 30
    reference: int = 0
    notes: tuple[str, ...] = ()
    unrun: str = ""


def compare(
    a: Subject, b: Subject, plan: Plan, rng: np.random.Generator, progress: Progress | None = None
) -> VerificationFacts:
    """Both models on the same batches (arrays in the graph's layout, by the input names of `a`).

    In the framework the two may differ by what rounding every operation of either can do to the outputs, in float64 by
    what rounding their weights can (`rounding.run_rounded`); see `_Allowance` for batches that are not run in float64.

    Raises:
        UsageError: inputs or outputs that do not correspond; or neither the framework nor NumPy can run both.
    """
    inputs, outputs = paired(a, b)
    tallies, first, second = _Tallies(), _Allowance(a), _Allowance(b)
    for done, batch in enumerate(plan.batches):
        other = {inputs[name]: array for name, array in batch.items()}
        fa, fb = (a.framework(batch), _second(b, other)) if plan.framework else (None, None)
        oa, ob = (a.oracle(batch, rng), b.oracle(other, rng)) if done < plan.oracle else (None, None)
        exact = oa.outputs if oa is not None else a.reference(batch) if done < plan.reference else None
        tallies.add(fa, _renamed(fb, outputs), exact, ob and _renamed(ob.outputs, outputs))
        mine, theirs = first.allowance(batch, oa, fa, rng), second.allowance(other, ob, fb, rng)
        widen(tallies.allowed, mine, _renamed(theirs, outputs))
        if oa is not None and ob is not None:
            widen(tallies.stored, oa.stored, _renamed(ob.stored, outputs))
        if progress is not None:
            progress("verifying", (done + 1) / len(plan.batches))
    return replace(tallies.facts(plan.notes), unrun="" if plan.framework else plan.unrun)


def _second(subject: Subject, batch: Batch) -> Outputs:
    try:
        return subject.framework(batch)
    except Exception as error:  # whatever the framework raises: the first model ran on this input
        words = str(error).strip().splitlines() or [type(error).__name__]
        raise VerificationError(f"the second model does not run where the first does: {words[0]}") from error


def _renamed(found: Any, outputs: Mapping[str, str]) -> Any:
    """Outputs of the second model under the names of the first."""
    return {mine: found[other] for mine, other in outputs.items()} if found else found


@dataclass
class _Allowance:
    """How far rounding can move each output of a model, batch by batch.

    Batches that are run in float64 tell.  On others the effect of small errors of the inputs is measured in the framework,
    and scaled by how the two compared on the first batch; without any float64 run these errors are λ·√(Σn)·u, as large as
    those of all operations together.
    """

    subject: Subject
    scale: dict[str, float] = field(default_factory=dict[str, float])

    def allowance(
        self, batch: Batch, oracle: Rounded | None, framework: Outputs | None, rng: np.random.Generator
    ) -> dict[str, float]:
        if framework is None or (oracle is not None and self.scale):
            return oracle.computed if oracle is not None else {}
        moved = self._moved(batch, framework, rng)
        if oracle is not None:
            self.scale = {name: min(1.0, oracle.computed[name] / effect) if effect else 1.0 for name, effect in moved.items()}
            return oracle.computed
        least = {name: least_of(self.subject.graph, name, value) for name, value in framework.items()}
        return {name: max(effect * self.scale.get(name, 1.0), least[name]) for name, effect in moved.items()}

    def _moved(self, batch: Batch, clean: Outputs, rng: np.random.Generator) -> dict[str, float]:
        """Twice the effect on each output of inputs that are off by what all operations together are."""
        graph = self.subject.graph
        total = sum(terms(node.op, prod(graph.spatial(node.inputs[0]) or (1,))) for node in graph.nodes if node.inputs)
        off = {
            name: (x * (1 + LAMBDA * sqrt(total) * unit_of(graph, name) * rng.choice((-1, 1), x.shape))).astype(x.dtype)
            for name, x in batch.items()
        }
        return {name: 2 * largest(distance(clean[name], value)) for name, value in self.subject.framework(off).items()}
