"""What samples and labels must be before anything is fitted on them.  One clear line for each that they are not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from decascade.compression.data.rows import CHUNK, AnyArray, Rows
from decascade.errors import UsageError
from decascade.ir.graph import Graph

LARGEST = float(np.finfo(np.float32).max)


def check_column(name: str, rows: Rows, graph: Graph) -> None:
    """Numbers of a kind that the input takes, all of them finite in float32.  Reads every sample of floating data once.

    Raises:
        UsageError: words, objects or complex numbers; fractions for an input of integers; NaN or infinite values.
    """
    kind, wanted = rows.dtype.kind, graph.tensors[name].dtype
    if kind not in "buif":
        raise UsageError(f"the data of {name} is of type {rows.dtype}: give numbers (uint8, float32, …)")
    if kind == "f" and not wanted.startswith(("float", "bfloat")):
        raise UsageError(f"the data of {name} is {rows.dtype}, the model takes {wanted} there: give whole numbers")
    if kind != "f":
        return
    largest = min(LARGEST, float(np.finfo(rows.dtype).max))
    bad, first = 0, (0, 0.0)
    for start, part in chunks(rows):
        flat = part.reshape(len(part), -1)
        # NaN compares false with everything
        wrong = ~(np.abs(flat) <= largest)
        samples = np.flatnonzero(wrong.any(1))
        if len(samples) and not bad:
            first = (start + int(samples[0]), float(flat[samples[0]][wrong[samples[0]]][0]))
        bad += len(samples)
    if bad:
        raise UsageError(
            f"{bad} of {rows.shape[0]} samples of {name} are not finite (sample {first[0]} holds {first[1]}): repair them"
        )


def check_labels(rows: Rows, count: int, graph: Graph) -> NDArray[np.int64]:
    """Class numbers (N,), from (N,), (N, 1) or one-hot (N, K); within the model's classes where its output tells them.

    Raises:
        UsageError: another number of labels than samples, a shape or type that no class numbers have, or out of range.
    """
    found = rows.take(np.arange(rows.shape[0]))
    if len(found) != count:
        raise UsageError(f"{len(found)} labels for {count} samples: give one for each")
    classes = _classes(graph)
    numbers = _numbers(found)
    if (numbers.size and numbers.min() < 0) or (classes is not None and numbers.max() >= classes):
        wrong = np.flatnonzero((numbers < 0) | (numbers >= (classes or np.inf)))
        of = f"the model's {classes} classes (0 to {classes - 1})" if classes is not None else "the classes, which begin at 0"
        raise UsageError(f"label {numbers[wrong[0]]} of sample {wrong[0]} is outside {of}: {len(wrong)} of {count} labels are")
    return numbers


def _numbers(found: AnyArray) -> NDArray[np.int64]:
    if found.ndim == 2 and found.shape[1] > 1 and found.dtype.kind in "buif":
        one_hot = np.all((found == 0) | (found == 1)) and np.all(found.sum(1) == 1)
        if not one_hot:
            raise UsageError(f"labels of shape {found.shape} are not one-hot: give one class number per sample")
        return found.argmax(1).astype(np.int64)
    flat = found.reshape(len(found), -1)
    if flat.shape[1] != 1 or found.dtype.kind not in "buif" or not np.all(flat == np.floor(flat)):
        raise UsageError(f"labels of type {found.dtype} and shape {found.shape}: give one whole number per sample")
    return flat[:, 0].astype(np.int64)


def _classes(graph: Graph) -> int | None:
    shape = graph.shape(graph.outputs[0]) if len(graph.outputs) == 1 else None
    classes = shape[1] if shape is not None and len(shape) == 2 else None
    return classes if isinstance(classes, int) and classes > 1 else None


def chunks(rows: Rows) -> Iterator[tuple[int, AnyArray]]:
    """All samples in pieces of a few megabytes, each with the number of its first."""
    count = rows.shape[0]
    width = max(1, int(np.prod(rows.shape[1:], dtype=np.int64)) * rows.dtype.itemsize)
    step = max(1, CHUNK // width)
    for start in range(0, count, step):
        yield start, rows.take(np.arange(start, min(start + step, count)))
