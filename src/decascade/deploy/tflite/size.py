"""The bytes of the TFLite file of a model, by making it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from decascade.checking.models import Subject
from decascade.checking.samples import Batch
from decascade.deploy.tflite.convert import Sample, to_float, to_int8
from decascade.deploy.tflite.deployed import to_file
from decascade.deploy.tflite.export import foreign_of, traced
from decascade.deploy.tflite.graph import Traced, trace_graph
from decascade.errors import CannotInterpret, UsageError
from decascade.ir.ops import Dense

SAMPLES = 8
"""Samples that ranges are taken from: their values do not change the size."""


def file_bytes(subject: Subject, batches: Sequence[Batch], int8: bool = True) -> int:
    """Bytes of the largest file that `export` may write of a model: as the framework traces it or through the graph, dense
    layers as they are or as convolutions of one pixel.

    Raises:
        UsageError: TensorFlow is missing, or has no TFLite form of the model.
    """
    samples = _samples(subject, batches)
    return max(len(to_int8(form, samples) if int8 else to_float(form)) for form in _forms(subject, int8))


def _forms(subject: Subject, int8: bool) -> list[Traced]:
    forms = [traced(subject)]
    if not int8:
        return forms
    foreign, dense = foreign_of(subject), any(isinstance(n.op, Dense) for n in subject.graph.nodes)
    for pixels in (False, True) if dense else (False,):
        try:
            forms.append(trace_graph(subject.graph, foreign=foreign, pixels=pixels))
        except (CannotInterpret, UsageError):  # only the framework understands the model: export has no other form either
            break
    return forms


def _samples(subject: Subject, batches: Sequence[Batch]) -> list[Sample]:
    arrays = [to_file(np.concatenate([batch[name][:SAMPLES] for batch in batches])) for name in subject.graph.inputs]
    return [[array[i : i + 1] for array in arrays] for i in range(min(SAMPLES, *(len(a) for a in arrays)))]
