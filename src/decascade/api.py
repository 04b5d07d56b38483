"""What the command line and Python users call: inspect, merge, verify."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from inspect import signature
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np

from decascade import __version__
from decascade.checking.cascades import check_replacement
from decascade.checking.data import load_data
from decascade.checking.models import Subject, compare
from decascade.checking.plan import plan, with_data, work
from decascade.checking.samples import Range, from_data, open_sizes
from decascade.cost import Cost, Target, target_named
from decascade.errors import OutputError, UsageError, VerificationError
from decascade.formats.base import Document, Format
from decascade.formats.registry import format_of
from decascade.ir.graph import Graph
from decascade.ir.ops import Conv, ConvTranspose, Dense
from decascade.output import Item, check_place, write_all
from decascade.regions.merge import NOMINAL, Cascade, Options, merge_graph, sized
from decascade.regions.proven import merge_on_box
from decascade.report.facts import CascadeFacts, CostFacts, ErrorFacts, Layers, Report, VerificationFacts

Progress = Callable[[str, float], None]
Policy = Literal["profitable", "always"]
Border = Literal["exact", "refuse"]
InputShape = Sequence[int] | Mapping[str, Sequence[int]]
PACKAGES = {"onnx": ("onnx", "onnx-ir", "onnxruntime"), "keras": ("keras", "tensorflow-cpu", "tensorflow"), "torch": ("torch",)}
"""Whose versions a report names."""
KERNELS = (Conv, ConvTranspose, Dense)
"""What a report counts as a layer."""
LARGE = 1e8
"""Multiply-accumulates from which on a replacement is checked on one sample instead of four."""


@dataclass(eq=False)
class MergeResult:
    """`model`: the merged native model, of the kind that was given.  `report`: what was done and what was left, and why."""

    model: Any
    report: Report
    format: Format
    source: Path | None = None

    def save(self, path: str | Path, *, force: bool = False, report: str | Path | None = None) -> None:
        """Write the model (and, where a path is given, the report as JSON), whole or not at all.

        Raises:
            OutputError: the place is the input, exists already (without `force`), or cannot be written to.
        """
        place, listed = Path(path), None if report is None else Path(report)
        check_output(self.format, place, self.source, force, listed)
        done = replace(self.report, output=str(place))
        items = [Item(place, lambda temporary: self.format.save(self.model, temporary))]
        if listed is not None:
            items.append(Item(listed, done.to_json))
        write_all(items)
        self.report = done


def inspect(
    model: object, *, target: str | Target = "macs", policy: Policy = "profitable", border: Border = "exact",
    max_growth: float = 16.0, input_shape: InputShape | None = None, progress: Progress | None = None,
) -> Report:
    """Every cascade of a model: its layers, what `merge` would do with it, at what cost, and why not where it would not.

    `model`: a file or a live object (see `formats.registry`).  Nothing is run and nothing is written.  `input_shape`: for a
    live PyTorch module, which does not know the shapes of its inputs: (N, C, *S), or one by input name.

    Raises:
        FormatError: a model that cannot be read.
        UsageError: an option out of its domain.
    """
    start = perf_counter()
    options = _options(target, policy, border, max_growth)
    form, document = _read(model, input_shape)
    graph, cascades = merge_graph(document.graph, options, progress)
    facts = tuple(_facts(c, options.target.unit, None) for c in cascades)
    return _report("inspect", model, form, document, graph, options.target, facts, None,
                   _corrections(graph, cascades), start)


def merge(
    model: object, *, target: str | Target = "macs", policy: Policy = "profitable", border: Border = "exact",
    max_growth: float = 16.0, input_range: Sequence[float] | None = None, input_shape: InputShape | None = None,
    prove_seconds: float = 20.0, verify: bool = True, seed: int = 0, progress: Progress | None = None,
) -> MergeResult:
    """Replace every cascade by the cheapest layers that compute the same, borders included: on every input, or, given an
    `input_range`, on every input within it (tier "proven": activations that are proved linear there are merged through).

    `policy` "always" takes the fewest layers whatever they cost, within `max_growth` times the stored parameters.
    `border` "refuse" leaves alone what would need its border corrected.  `input_range`: the lowest and the highest value of
    all inputs; the verification's random inputs are drawn from it too.  `prove_seconds`: time for the proofs.
    `input_shape`: as for `inspect`.  The given model is never changed.

    Raises:
        FormatError: a model that cannot be read.
        UsageError: an option out of its domain, or a model that nothing here can run, so that it cannot be verified.
        VerificationError: the result is not the same function; a bug in decascade, and no result is given.
    """
    start = perf_counter()
    options, limits = _options(target, policy, border, max_growth), _range(input_range)
    _seed(seed)
    form, document = _read(model, input_shape)
    reference, notes = document.graph, tuple[str, ...]()
    if input_range is None:
        graph, cascades = merge_graph(document.graph, options, progress)
    else:
        proven = merge_on_box(document.graph, (limits.lo, limits.hi), options, prove_seconds, progress=progress, seed=seed)
        graph, cascades, reference, notes = proven.graph, proven.cascades, proven.reference, proven.notes
    native = form.write(document, graph)
    errors, verification = [None] * len(cascades), None
    if verify:
        subject = Subject(form, document)
        try:
            errors = _check_cascades(reference, graph, cascades, seed, 1 if work(subject) > LARGE else 4)
            changed = graph.nodes != document.graph.nodes
            verification = _check_model(subject, native, limits, seed, changed, progress)
        except VerificationError as error:
            raise VerificationError(f"{error}; nothing was written") from error
    facts = tuple(_facts(c, options.target.unit, e) for c, e in zip(cascades, errors, strict=True))
    report = _report("merge", model, form, document, graph, options.target, facts, verification,
                     _corrections(graph, cascades), start)
    report = replace(report, notes=(*report.notes, *notes))
    return MergeResult(native, report, form, document.source)


def verify(
    a: object, b: object, *, data: object = None, input_range: Sequence[float] | None = None,
    input_shape: InputShape | None = None, seed: int = 0, progress: Progress | None = None,
) -> VerificationFacts:
    """Whether two models, of whatever formats, are the same function up to rounding; the worst error and where.

    `data`: an array, a mapping of input names to arrays, a `.npz` file with `x` or the input names, or a `.npy` file, in
    the layout of `a`; without it random inputs from `input_range` (default −1 to 1), its corners and single pixels.
    `input_shape`: as for `inspect`.

    Raises:
        FormatError: a model that cannot be read.
        UsageError: inputs or outputs that do not correspond, data that does not fit.
        VerificationError: `b` does not run on an input that `a` runs on.
    """
    limits = _range(input_range)
    _seed(seed)
    first, second = Subject(*_read(a, input_shape)), Subject(*_read(b, input_shape))
    rng = np.random.default_rng(seed)
    if data is None:
        chosen = plan(first, limits, rng)
    else:
        arrays = {name: first.from_native(name, array) for name, array in load_data(data, first.graph.inputs).items()}
        chosen = with_data(first, from_data(first.graph, arrays))
    return compare(first, second, chosen, rng, progress)


def check_output(form: Format, path: Path, source: Path | None, force: bool, report: Path | None = None) -> None:
    """That the result, and the report, can be put where they are asked for; before any work is done.

    Raises:
        OutputError: the extension is not one of the format's own, or the place is taken or cannot be written to.
    """
    if path.suffix.lower() not in form.extensions:
        known = " or ".join(form.extensions)
        raise OutputError(f"{path}: a {form.name} model stays one: give an output name that ends in {known}")
    sources = [] if source is None else [source]
    check_place(path, sources, force)
    if report is not None:
        check_report(report, [path, *sources], force)


def check_report(path: Path, others: Sequence[Path], force: bool) -> None:
    """The same for a report.

    Raises:
        UsageError: a report of another kind than JSON.
        OutputError: the place is taken or cannot be written to.
    """
    if path.suffix.lower() != ".json":
        raise UsageError(f"--report {path}: only .json reports can be written so far: give a name that ends in .json")
    if any(path.absolute() == other.absolute() for other in others):
        raise OutputError(f"--report {path} is the model itself: choose another name for the report")
    check_place(path, others, force)


def _options(target: str | Target, policy: str, border: str, max_growth: float) -> Options:
    _choice("policy", policy, ("profitable", "always"))
    _choice("border", border, ("exact", "refuse"))
    if not max_growth >= 1:
        raise UsageError(f"max_growth = {max_growth:g}: give a number from 1 on (how much the parameters may grow)")
    found = target_named(target) if isinstance(target, str) else target
    return Options(found, policy=policy, border=border, max_growth=max_growth)  # type: ignore[arg-type]


def _choice(name: str, value: str, valid: Sequence[str]) -> None:
    if value not in valid:
        raise UsageError(f"{name} = {value!r}: give one of {', '.join(valid)}")


def _range(given: Sequence[float] | None) -> Range:
    if given is None:
        return Range()
    if len(given) != 2:
        raise UsageError(f"input range {tuple(given)}: give two numbers, the lowest and the highest value")
    return Range(float(given[0]), float(given[1]))


def _seed(seed: int) -> None:
    if seed < 0:
        raise UsageError(f"seed = {seed}: give a whole number from 0 on")


def _read(model: object, input_shape: InputShape | None = None) -> tuple[Format, Document]:
    form = format_of(model)
    source = Path(model) if isinstance(model, str) else model
    if input_shape is None or isinstance(source, Path) or "input_shape" not in signature(form.read).parameters:
        return form, form.read(source)
    shaped: Any = form
    return form, shaped.read(source, input_shape=input_shape)


def _check_cascades(
    before: Graph, after: Graph, cascades: Sequence[Cascade], seed: int, samples: int
) -> list[ErrorFacts | None]:
    """One entry per cascade; None for those left, and those whose ends a rewrite around them has moved."""
    both = before.tensors.keys() & after.tensors.keys()
    return [
        check_replacement(before, after, c.entry, c.exit, " → ".join(c.layers), seed, samples)
        if c.decision == "merged" and {c.entry, c.exit} <= both else None
        for c in cascades
    ]


def _check_model(
    subject: Subject, native: object, limits: Range, seed: int, changed: bool, progress: Progress | None
) -> VerificationFacts:
    rng = np.random.default_rng(seed)
    chosen = plan(subject, limits, rng, changed)
    found = compare(subject, Subject(subject.format, subject.format.read(native)), chosen, rng, progress)
    if not found.same:
        raise VerificationError(f"the merged model is {found.complaint} (please report this)")
    return found


def _facts(cascade: Cascade, unit: str, error: ErrorFacts | None) -> CascadeFacts:
    c = cascade
    return CascadeFacts(c.layers, c.decision, c.tier, c.reason, c.border, _cost(c.before, c.after, unit), error)


def _cost(before: Cost, after: Cost | None, unit: str) -> CostFacts:
    if after is None:
        return CostFacts(before.value, None, unit, before.parameters, None)
    return CostFacts(before.value, after.value, unit, before.parameters, after.parameters)


def _report(
    action: Literal["inspect", "merge"], model: object, form: Format, document: Document, graph: Graph, target: Target,
    cascades: tuple[CascadeFacts, ...], verification: VerificationFacts | None, corrections: int, start: float,
) -> Report:
    before, after = sized(document.graph), sized(graph)
    counts = [sum(isinstance(n.op, KERNELS) for n in g.nodes) for g in (before, after)]
    sizes = f"sizes that the model leaves open are costed as {NOMINAL}"
    notes = (*document.notes, *([sizes] if open_sizes(document.graph) else []))
    name = document.source.name if document.source is not None else f"live {form.name} model"
    return Report(
        action=action, model=name, output=None, target=target.name,
        cost=_cost(target.graph_cost(before), target.graph_cost(after), target.unit),
        layers=Layers(counts[0], counts[1] - corrections, corrections), cascades=cascades,
        verification=verification, versions=_versions(form), seconds=round(perf_counter() - start, 3), notes=notes,
    )


def _corrections(graph: Graph, cascades: Sequence[Cascade]) -> int:
    """Small convolutions of the merged graph that only correct the border of a merged one."""
    kernels = {n.name for n in graph.nodes if isinstance(n.op, KERNELS)}
    return sum(max(len(kernels.intersection(c.added)) - 1, 0) for c in cascades if c.border == "ring")


def _versions(form: Format) -> dict[str, str]:
    found = {"decascade": __version__}
    for package in ("numpy", *PACKAGES.get(form.name, ())):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
