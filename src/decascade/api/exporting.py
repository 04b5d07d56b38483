"""export: the file that the device eats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.api.common import InputShape, Progress, check_seed, read_model
from decascade.api.finding import samples_of
from decascade.api.places import check_report
from decascade.checking.data import check_samples, load_arrays
from decascade.checking.models import Subject
from decascade.checking.samples import DEFAULT, Batch, batches
from decascade.deploy.c.code import c_name
from decascade.deploy.c.export import c_files
from decascade.deploy.c.streamed import streamed_files, streamed_int8
from decascade.deploy.made import Made, Source
from decascade.deploy.onnx.export import onnx_file
from decascade.deploy.tflite.export import float_tflite, int8_tflite
from decascade.deploy.tflite.fidelity import labels_of
from decascade.errors import OutputError, UsageError
from decascade.output import Item, check_place, write_all
from decascade.report.facts.device import ExportFacts
from decascade.report.files import write_report
from decascade.stream.read.flat import read_path
from decascade.version import __version__

Maker = Callable[[Source, str], Made]
MAKERS: dict[str, Maker] = {".tflite": float_tflite, ".onnx": onnx_file, ".c": c_files}
INT8 = (".tflite", ".c")
"""What is made full-integer with int8."""
BESIDE = {".c": ("{}.h", "{}_test.c")}
"""Further files that an extension brings, by stem."""


def export(
    model: object, output: str | Path, *, int8: bool = False, data: object = None, calibrate: int = 200,
    equalise: bool = True, input_shape: InputShape | None = None, seed: int = 0, force: bool = False,
    stream: bool = True, report: str | Path | None = None, progress: Progress | None = None,
) -> ExportFacts:
    """Write a model as a file for a device, run that file, and say how it compares.

    `output`: `.tflite` (float32, or full-integer with `int8`), `.onnx`, or `.c` (with a header and a test program beside it).
    `.c` with `int8`, or of a model that is an int8 `.tflite` file already, is C that runs row by row (`stream`) or map by map.
    `data`: as for `verify`; int8 takes its ranges from the first `calibrate` samples, and all of them are compared; an array
    `y` of classes gives accuracies.  `equalise`: for int8, scale channels across layers where that brings the file closer to
    the model.  A file of float32 is written only where it is the same function up to rounding.

    Raises:
        FormatError: a model that cannot be read.
        UsageError: a tool is missing, no form of some operation, int8 without data.
        OutputError: the place is taken, or of an extension that nothing is exported to.
        VerificationError: the file is not the same function; nothing is written.
    """
    start, place = perf_counter(), Path(output)
    check_seed(seed)
    if isinstance(model, str | Path) and Path(model).suffix.lower() == ".tflite":
        return _of_tflite(Path(model), place, stream, force, None if report is None else Path(report), start)
    maker = _maker(place, int8, calibrate, stream)
    form, document = read_model(model, input_shape)
    _check_places(place, document.source, force, None if report is None else Path(report), int8)
    source = _source(Subject(form, document), data, seed, calibrate, equalise, progress)
    made = maker(source[0], place.name)
    name = document.source.name if document.source is not None else f"live {form.name} model"
    return _written(made, name, place, start, None if report is None else Path(report), (*document.notes, *source[1]))


def _of_tflite(model: Path, place: Path, stream: bool, force: bool, report: Path | None, start: float) -> ExportFacts:
    """An int8 file that somebody else made, with its own scales.

    Raises:
        UsageError: another output than `.c`.
    """
    if place.suffix.lower() != ".c":
        raise UsageError(f"{place}: a .tflite file is exported to .c only")
    data = read_path(model)
    _check_places(place, model, force, report, True)
    return _written(streamed_files(data, place.name, stream, str(model)), model.name, place, start, report, ())


def _written(
    made: Made, model: str, place: Path, start: float, report: Path | None, notes: tuple[str, ...]
) -> ExportFacts:
    facts = ExportFacts(
        model=model, output=str(place), kind=made.kind, files={name: len(content) for name, content in made.files.items()},
        flash=made.flash, operations=dict(made.operations), verification=made.verification, fidelity=made.fidelity,
        micro=made.micro, chip=made.chip, equalised=made.equalised, versions={"decascade": __version__, **made.versions},
        seconds=round(perf_counter() - start, 3), notes=(*notes, *made.notes), streamed=made.streamed,
    )
    items = [Item(place.parent / name, _writer(content)) for name, content in made.files.items()]
    if report is not None:
        items.append(Item(report, lambda path: write_report(facts, path)))
    write_all(items)
    return facts


def _writer(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _maker(place: Path, int8: bool, calibrate: int, stream: bool) -> Maker:
    suffix = place.suffix.lower()
    if suffix not in MAKERS:
        raise OutputError(f"{place}: give an output name that ends in {', '.join(MAKERS)}")
    if int8 and suffix not in INT8:
        raise UsageError(f"--int8 is for .tflite and .c: {place} would be float32")
    if calibrate < 1:
        raise UsageError(f"calibrate = {calibrate}: give a number of samples from 1 on")
    if int8 and suffix == ".c":
        return lambda source, name: streamed_int8(source, name, stream)
    return int8_tflite if int8 else MAKERS[suffix]


def _check_places(place: Path, source: Path | None, force: bool, report: Path | None, int8: bool) -> None:
    sources = [] if source is None else [source]
    names = BESIDE.get(place.suffix.lower(), ())[: 1 if int8 else None]
    beside = [place.with_name(name.format(c_name(place.stem))) for name in names]
    for path in (place, *beside):
        check_place(path, sources, force)
    if report is not None:
        check_report(report, [place, *beside, *sources], force)


def _source(
    subject: Subject, data: object, seed: int, calibrate: int, equalise: bool, progress: Progress | None
) -> tuple[Source, tuple[str, ...]]:
    """What is exported, and remarks on the data."""
    graph = subject.graph
    if data is None:
        found = batches(graph, 8, DEFAULT, np.random.default_rng(seed))
        return Source(subject, _joined(found), None, False, calibrate, equalise, progress), ()
    cut = samples_of(subject, data)
    notes = list[str]()
    count = sum(_rows(batch) for batch in cut)
    stored = load_arrays(data).get("y")
    if stored is not None:
        check_samples("y", stored, "float64")
    labels: NDArray[Any] | None = labels_of(stored, count, notes.append)
    return Source(subject, cut, labels, True, calibrate, equalise, progress), tuple(notes)


def _rows(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _joined(found: list[Batch]) -> list[Batch]:
    """One batch of all, unless the model takes one sample at a time."""
    if all(_rows(batch) == 1 for batch in found):
        return found
    return [{name: np.concatenate([batch[name] for batch in found]) for name in found[0]}]
