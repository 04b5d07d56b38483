"""Export to TFLite: float32, verified; int8, measured against the model in LiteRT and on the microcontroller interpreter."""

from __future__ import annotations

from collections import Counter
from typing import Any

from decascade.checking.models import Subject
from decascade.deploy.made import Made, Source, single_batch, verified
from decascade.deploy.tflite.carried import Lower, lower_onnx
from decascade.deploy.tflite.convert import Sample, to_float, to_int8
from decascade.deploy.tflite.deployed import deployed, to_file
from decascade.deploy.tflite.equalise import equalised
from decascade.deploy.tflite.fidelity import Outputs, compare_outputs, micro_facts, outputs_of
from decascade.deploy.tflite.graph import Traced, plain_outputs, trace_graph, trace_keras
from decascade.deploy.tflite.litert import Model
from decascade.deploy.tools import version_of
from decascade.errors import CannotInterpret, UsageError
from decascade.ir.graph import Graph
from decascade.report.facts.device import EqualiseFacts, FidelityFacts, MicroFacts

TOOLS = ("tensorflow", "ai_edge_litert.interpreter")
LAYOUT = "the file's inputs and outputs are channels-last (N, height, width, C)"


def traced(subject: Subject, batch: int | None = 1) -> Traced:
    """The model as a TensorFlow function: a Keras model as it is, any other through the graph."""
    single_batch(subject.graph)
    if subject.format.name == "keras" and _on_tensorflow():
        from decascade.formats.keras.base import body

        return trace_keras(body(subject.document.native), subject.graph.inputs, batch)
    return trace_graph(subject.graph, batch, foreign_of(subject))


def foreign_of(subject: Subject) -> Lower | None:
    """What stands for the nodes that only the format understands."""
    return lower_onnx(subject.document) if subject.format.name == "onnx" else None


def as_deployed(subject: Subject, data: bytes, reference: bool = False) -> Subject:
    """The file of a model, to be run beside it."""
    plain = plain_outputs(subject.graph) if subject.format.name == "onnx" else ()
    return deployed(subject.graph, data, reference, plain)


def _on_tensorflow() -> bool:
    from importlib import import_module

    keras: Any = import_module("keras")
    return keras.backend.backend() == "tensorflow"


def samples_of(source: Source) -> list[Sample]:
    """The samples that int8 ranges are taken from, in the file's layout."""
    found = list[Sample]()
    for batch in source.batches:
        arrays = [to_file(batch[name]) for name in source.graph.inputs]
        found += [[array[i : i + 1] for array in arrays] for i in range(len(arrays[0]))]
        if len(found) >= source.calibrate:
            break
    return found[: source.calibrate]


def float_tflite(source: Source, name: str) -> Made:
    """A float32 file that equals the model up to rounding.

    Raises:
        UsageError: no TFLite form.  VerificationError: it is not the same function.
    """
    source.told("converting", 0.0)
    data = to_float(traced(source.subject))
    exported = as_deployed(source.subject, data)
    verification = verified(source, exported)
    fidelity = None
    if source.given:
        source.told("comparing", 0.0)
        after = outputs_of(exported, source.batches)
        fidelity = compare_outputs(outputs_of(source.subject, source.batches), after, source.labels)
    micro, note = _micro(source, data, tell=False)
    return Made(
        "tflite float32", {name: data}, len(data), _operations(data), verification, fidelity, micro,
        tools=(*TOOLS, "tflite_micro"), notes=_notes(source, note),
    )


def int8_tflite(source: Source, name: str) -> Made:
    """A full-integer file, its ranges taken from the user's samples.

    Raises:
        UsageError: no samples, or no TFLite form.
    """
    if not source.given:
        raise UsageError("int8 needs samples to take the ranges of activations from: give --data D.npz")
    source.told("converting", 0.0)
    samples = samples_of(source)
    data = to_int8(traced(source.subject), samples)
    source.told("comparing", 0.3)
    before = outputs_of(source.subject, source.batches)
    fidelity = _compared(source, data, before)
    graph, equalised = source.graph, None
    if source.equalise and fidelity.rms_rel > CLOSE:
        source.told("equalising", 0.5)
        data, fidelity, equalised, graph = _equalised(source, samples, before, data, fidelity)
    source.told("comparing", 0.8)
    micro, note = _micro(source, data, tell=True)
    alike = ""
    if micro is not None and micro.apart.startswith(DENSE):
        data, fidelity, micro, alike = _alike(source, graph, samples, before, (data, fidelity, micro))
    calibrated = f"int8 ranges come from {len(samples)} samples"
    return Made(
        "tflite int8", {name: data}, len(data), _operations(data), None, fidelity, micro, equalised=equalised,
        tools=(*TOOLS, "tflite_micro"), notes=tuple(n for n in (calibrated, alike, *_notes(source, note)) if n),
    )


DENSE = "FULLY_CONNECTED"
Int8 = tuple[bytes, FidelityFacts, MicroFacts]


def _alike(
    source: Source, graph: Graph, samples: list[Sample], before: Outputs, plain: Int8
) -> tuple[bytes, FidelityFacts, MicroFacts, str]:
    """The file with dense layers as convolutions of one pixel, whose results LiteRT and TFLM round alike (those of
    FULLY_CONNECTED the one rounds once, the other twice), if that makes both agree on more and is as close to the model."""
    try:
        data = to_int8(trace_graph(graph, foreign=foreign_of(source.subject), pixels=True), samples)
        fidelity, micro = _compared(source, data, before), micro_facts(source.graph, data, source.batches)
    except (CannotInterpret, UsageError):  # only the framework understands the model, or TFLM lacks an operation
        return *plain, ""
    worse = fidelity.rms_rel > plain[1].rms_rel + CLOSE or (fidelity.agreement or 0) < (plain[1].agreement or 0) - CLOSE
    if worse or micro.equal <= plain[2].equal:
        return *plain, ""
    return data, fidelity, micro, f"dense layers are convolutions of one pixel: LiteRT and TFLM round {DENSE} differently"


CLOSE = 0.01
"""Root mean square error, over the outputs' own, below which nothing is tried to make an int8 file closer."""


def _compared(source: Source, data: bytes, before: Outputs) -> FidelityFacts:
    after = outputs_of(as_deployed(source.subject, data, reference=True), source.batches)
    return compare_outputs(before, after, source.labels)


def _equalised(
    source: Source, samples: list[Sample], before: Outputs, data: bytes, plain: FidelityFacts
) -> tuple[bytes, FidelityFacts, EqualiseFacts | None, Graph]:
    """The file with ranges equalised across layers where that is closer to the model, else the given one; its graph."""
    try:
        graph, pairs = equalised(source.graph, source.batches)
        other = to_int8(trace_graph(graph, foreign=foreign_of(source.subject)), samples) if pairs else data
    except (CannotInterpret, UsageError):  # only the framework understands the model: nothing to scale
        return data, plain, None, source.graph
    if not pairs:
        return data, plain, None, source.graph
    closer = _compared(source, other, before)
    worse = plain.agreement is not None and closer.agreement is not None and closer.agreement < plain.agreement
    kept = closer.rms_rel < plain.rms_rel and not worse
    facts = EqualiseFacts(pairs, plain.rms_rel, closer.rms_rel, plain.agreement, closer.agreement, kept)
    return (other, closer, facts, graph) if kept else (data, plain, facts, source.graph)


def _micro(source: Source, data: bytes, tell: bool) -> tuple[MicroFacts | None, str]:
    if not version_of("tflite_micro"):
        return None, "tflite-micro is not installed: the arena was not measured" if tell else ""
    try:
        return micro_facts(source.graph, data, source.batches), ""
    except UsageError as error:
        return None, str(error)


def _operations(data: bytes) -> dict[str, int]:
    return dict(Counter(kind for kind in Model(data, reference=True).operations if kind != "DELEGATE"))


def _notes(source: Source, *more: str) -> tuple[str, ...]:
    maps = any(len(source.graph.shape(name) or ()) > 2 for name in (*source.graph.inputs, *source.graph.outputs))
    return tuple(note for note in (LAYOUT if maps else "", *more) if note)
