"""What the device computes against what the model computes, on the same samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.checking.models import Subject, distance
from decascade.checking.samples import Batch
from decascade.deploy.tflite.deployed import to_file
from decascade.deploy.tflite.litert import Model
from decascade.deploy.tflite.tflm import Micro, run_micro
from decascade.errors import UsageError
from decascade.ir.graph import Graph
from decascade.report.facts.device import FidelityFacts, MicroFacts

Outputs = dict[str, NDArray[Any]]
MICRO_SAMPLES = 256
"""Samples that the microcontroller interpreter is given."""


def outputs_of(subject: Subject, batches: Sequence[Batch]) -> Outputs:
    """The framework's outputs on all batches, in the graph's layout; in float64 where the framework is not there.

    Raises:
        UsageError: the model can be run neither by its framework nor in NumPy.
    """
    found = [_outputs(subject, batch) for batch in batches]
    return {name: np.concatenate([outputs[name] for outputs in found]) for name in subject.graph.outputs}


def _outputs(subject: Subject, batch: Batch) -> Outputs:
    try:
        return subject.framework(batch)
    except ImportError:
        found = subject.reference(batch)
        if found is None:
            raise UsageError("the model can be run neither by its framework nor in NumPy: nothing to compare with") from None
        return found


def compare_outputs(before: Outputs, after: Outputs, labels: NDArray[Any] | None) -> FidelityFacts:
    """Errors over all outputs, each against its own largest value; agreement and accuracy of the first one's largest class."""
    gaps = {name: distance(before[name], after[name]) for name in before}
    scales = {name: float(np.abs(before[name]).max(initial=0.0)) or 1.0 for name in before}
    worst = max(gaps, key=lambda name: float(gaps[name].max(initial=0.0)) / scales[name])
    powers = [float(np.mean(before[name].astype(np.float64) ** 2)) for name in before]
    errors = [float(np.mean(gaps[name] ** 2)) for name in before]
    relative = max((e / p) ** 0.5 if p else float(e > 0) for e, p in zip(errors, powers, strict=True))
    first = next(iter(before))
    mine, theirs = classes(before[first]), classes(after[first])
    samples = len(before[first])
    right = [_share(found, labels) for found in (mine, theirs)]
    return FidelityFacts(
        samples=samples,
        max_abs=float(gaps[worst].max(initial=0.0)),
        max_rel=float(gaps[worst].max(initial=0.0)) / scales[worst],
        rms_rel=relative,
        agreement=_share(mine, theirs),
        accuracy_before=right[0],
        accuracy_after=right[1],
    )


def _share(a: NDArray[Any] | None, b: NDArray[Any] | None) -> float | None:
    """Where two sets of classes are the same; None where they are not there, or not of the same samples."""
    return None if a is None or b is None or a.shape != b.shape else float(np.mean(np.equal(a, b)))


def classes(output: NDArray[Any]) -> NDArray[Any] | None:
    """The index of the largest channel, per sample and position; None for a single channel."""
    if output.ndim < 2 or output.shape[1] < 2:
        return None
    return np.asarray(output.argmax(axis=1))


def micro_facts(graph: Graph, data: bytes, batches: Sequence[Batch]) -> MicroFacts:
    """The arena that a file takes on a microcontroller, and whether LiteRT's reference kernels give the same integers there.

    Raises:
        UsageError: as `tflm.run_micro`.
    """
    model = Model(data, reference=True)
    rows = {name: np.concatenate([batch[name] for batch in batches])[:MICRO_SAMPLES] for name in graph.inputs}
    stored = [port.stored(to_file(rows[name])) for port, name in zip(model.inputs, graph.inputs, strict=True)]
    ran = [model.run([array[i : i + 1] for array in stored]) for i in range(len(stored[0]))]
    reference = [np.concatenate(column) for column in zip(*ran, strict=True)]
    micro = run_micro(data, stored, len(model.outputs))
    pairs = [(a, b.reshape(a.shape)) for a, b in zip(reference, micro.outputs, strict=True)]
    other = next((i for i in range(len(ran)) if any(not np.array_equal(a[i], b[i]) for a, b in pairs)), None)
    apart = "" if other is None else _first_apart(data, [array[other : other + 1] for array in stored])
    return _micro_facts(micro, pairs, apart)


def _first_apart(data: bytes, sample: Sequence[NDArray[Any]]) -> str:
    """The first operation that LiteRT and the microcontroller interpreter compute differently on one sample."""
    model = Model(data, reference=True, keep=True)
    model.run(sample)
    results = model.results()
    micro = run_micro(data, sample, len(model.outputs), [index for _, index, _ in results])
    for i, (kind, index, value) in enumerate(results):
        if not np.array_equal(value.reshape(-1), micro.tensors[index].astype(value.dtype)):
            return f"{kind}, {i + 1} of {len(results)}"
    return ""


def _micro_facts(micro: Micro, pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]], apart: str) -> MicroFacts:
    gaps = [np.abs(a.astype(np.float64) - b.astype(np.float64)) for a, b in pairs]
    entries = sum(g.size for g in gaps)
    return MicroFacts(
        arena=micro.arena,
        head=micro.head,
        tail=micro.tail,
        samples=len(gaps[0]) if gaps else 0,
        equal=sum(int((g == 0).sum()) for g in gaps) / entries if entries else 1.0,
        largest=max((float(g.max(initial=0.0)) for g in gaps), default=0.0),
        apart=apart,
    )


def labels_of(arrays: object, samples: int, inform: Callable[[str], object]) -> NDArray[Any] | None:
    """The array y of the user's data as one class per sample; None where there is none that fits."""
    if arrays is None:
        return None
    labels = np.asarray(arrays)
    if labels.ndim == 2 and labels.shape[1] > 1:
        labels = labels.argmax(axis=1)
    labels = labels.reshape(-1) if labels.size == len(labels) else labels
    if labels.ndim != 1 or len(labels) < samples:
        inform(f"labels of shape {labels.shape} for {samples} samples: no accuracy is given")
        return None
    return labels[:samples]
