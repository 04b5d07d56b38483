"""The user's samples as batches in the graph's layout, read from disk as they are needed.

What can be given: a `.npz` file with `x` (and `y`), a `.npy` file, several of them, a folder of either or of images; an
array, a pair (x, y), a mapping of input names to arrays; batches of any of these, as an iterable or a function that starts
one.  Memory stays at a batch: files are read row by row, what is compressed or comes as a stream is decoded once into a cache.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from decascade.compression.data.check import check_column, check_labels
from decascade.compression.data.files import read_files
from decascade.compression.data.layout import Convert, layout_for
from decascade.compression.data.rows import AnyArray, Held, Rows
from decascade.compression.data.stream import spooled
from decascade.compression.torch_graph.ops import load_torch
from decascade.errors import UsageError
from decascade.ir.graph import Graph
from decascade.scratch import Scratch

Indices = NDArray[np.int64]
IN_MEMORY = 2**28
"""Bytes of samples up to which they are read into memory once."""
LABELS = ("y", "labels")


@dataclass(frozen=True)
class Scaling:
    """What is done to every sample before the model sees it: (x · scale − mean) / std, numbers for all or one per channel."""

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        numbers = (self.scale, *self.mean, *self.std)
        if not np.all(np.isfinite(numbers)) or self.scale == 0 or 0 in self.std or not (self.mean and self.std):
            told = f"scaling {self.scale}, mean {self.mean}, std {self.std}"
            raise UsageError(f"{told}: give finite numbers, scale and std not zero")

    @property
    def idle(self) -> bool:
        return self.scale == 1 and set(self.mean) == {0.0} and set(self.std) == {1.0}


@dataclass(frozen=True, eq=False)
class Column:
    """The samples of one model input, how they become the graph's layout, and the element type that the graph has."""

    rows: Rows
    convert: Convert
    dtype: str


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples for the inputs of a graph.  `chosen` are those that belong to it, in order; `labels` has one entry per row.

    `notes` are remarks for the user ("images are read as channels-last").
    """

    columns: Mapping[str, Column]
    chosen: Indices
    labels: NDArray[np.int64] | None = None
    scaling: Scaling = field(default_factory=Scaling)
    notes: tuple[str, ...] = ()
    keep: Any = field(default=None, repr=False)

    @property
    def count(self) -> int:
        return len(self.chosen)

    def arrays(self, places: Indices) -> dict[str, AnyArray]:
        """The samples at these places, by input, in the graph's layout and the type in which they are stored."""
        rows = self.chosen[places]
        return {name: column.convert(column.rows.take(rows)) for name, column in self.columns.items()}

    def tensors(self, places: Indices) -> dict[str, Any]:
        """The same as torch tensors; pixels stay uint8 unless there is a scaling."""
        found = {name: _tensor(array) for name, array in self.arrays(places).items()}
        if self.scaling.idle:
            return found
        return {name: self._scaled(name, tensor) for name, tensor in found.items()}

    def targets(self, places: Indices) -> NDArray[np.int64] | None:
        """The labels of the samples at these places, where there are labels."""
        return None if self.labels is None else self.labels[self.chosen[places]]

    def batches(self, size: int) -> Iterator[dict[str, Any]]:
        """All samples in order, as torch tensors by input name."""
        for places in self.places(size):
            yield self.tensors(places)

    def places(self, size: int) -> Iterator[Indices]:
        """Runs of at most `size` places, in order."""
        for start in range(0, self.count, size):
            yield np.arange(start, min(start + size, self.count))

    def shuffled(self, size: int, seed: int, epoch: int) -> list[Indices]:
        """The places of an epoch's batches of `size`: every sample once but for a remainder, in an order that seed and
        epoch alone decide.  Fewer samples than `size` make one batch."""
        order = np.random.default_rng((seed, epoch)).permutation(self.count)
        whole = self.count // size
        return [order] if not whole else np.split(order[: whole * size], whole)

    def split(self, held_out: int, seed: int) -> tuple[Dataset, Dataset]:
        """Two parts without a sample in common: one to fit on, and `held_out` samples to judge by.

        Raises:
            UsageError: nothing would be left to fit on.
        """
        if not 0 < held_out < self.count:
            raise UsageError(f"{held_out} of {self.count} samples cannot be held out: give more samples")
        order = np.random.default_rng((seed, 2**31)).permutation(self.count)
        parts = np.sort(order[held_out:]), np.sort(order[:held_out])
        fit, held = (replace(self, chosen=self.chosen[part]) for part in parts)
        return fit, held

    def first(self, count: int) -> Dataset:
        """At most `count` samples, spread evenly over all."""
        if count >= self.count:
            return self
        return replace(self, chosen=self.chosen[np.linspace(0, self.count - 1, count).round().astype(np.int64)])

    def _scaled(self, name: str, tensor: Any) -> Any:
        if not self.columns[name].dtype.startswith("float"):
            return tensor
        torch, scaling = load_torch(), self.scaling
        column = (-1, *(1,) * (tensor.ndim - 2)) if tensor.ndim > 1 else (-1,)
        mean, std = (torch.tensor(v, dtype=torch.float32).view(column) for v in (scaling.mean, scaling.std))
        return (tensor.float() * scaling.scale - mean) / std


def load_dataset(
    data: object, graph: Graph, to_graph: Callable[[str, AnyArray], AnyArray] | None = None, *, scaling: Scaling | None = None,
    cache: Path | None = None, limit: int | None = None, least: int = 1, seed: int = 0,
) -> Dataset:
    """The user's data for the inputs of a graph, checked.

    `to_graph` takes an array of an input from the model's own layout to the graph's (default: they are the same).  `cache`:
    a folder for what must be decoded, found again by a later run; by default a temporary one.  `limit`: at most so many
    samples, drawn by `seed`, of a stream the first ones.  `least`: fewer samples are refused.

    Raises:
        UsageError: data that is missing, unreadable, empty, not finite, too little, of a shape or type that the model does
            not take, or labels that do not fit.
    """
    folder, owned = (cache, None) if cache is not None else _temporary()
    columns = _columns(data, graph, folder, limit)
    labels = next((columns[name] for name in LABELS if name in columns and name not in graph.inputs), None)
    inputs = _inputs(columns, graph)
    found, notes = dict[str, Column](), list[str]()
    small = sum(prod(rows.shape) * rows.dtype.itemsize for rows in inputs.values()) <= IN_MEMORY
    for name, rows in inputs.items():
        convert, note = layout_for(name, rows, graph, to_graph)
        check_column(name, rows, graph)
        kept = Held(rows.take(np.arange(rows.shape[0]))) if small and not isinstance(rows, Held) else rows
        found[name] = Column(kept, convert, graph.tensors[name].dtype)
        notes += [note] if note else []
    count = _count(inputs)
    if count < least:
        raise UsageError(f"{count} samples are too few: give at least {least}")
    chosen = np.arange(count)
    if limit is not None and limit < count:
        chosen = np.sort(np.random.default_rng((seed, 2**31 + 1)).permutation(count)[:limit])
    _check_scaling(scaling, graph)
    numbers = None if labels is None else check_labels(labels, count, graph)
    return Dataset(found, chosen, numbers, scaling or Scaling(), tuple(notes), owned)


class _Folder:
    """A temporary folder that goes when the last dataset that reads from it has gone."""

    def __init__(self) -> None:
        held = Scratch()
        self.path = held.path
        weakref.finalize(self, held.close)


def _temporary() -> tuple[Path, _Folder]:
    folder = _Folder()
    return folder.path, folder


def _columns(data: object, graph: Graph, cache: Path, limit: int | None) -> dict[str, Rows]:
    """Arrays by name; a single one is "x"."""
    paths = _paths(data)
    if paths:
        return read_files(paths, cache, _sizes(graph))
    if isinstance(data, Mapping):
        return {str(k): Held(_array(v, str(k))) for k, v in cast("Mapping[Any, Any]", data).items()}
    parts: tuple[Any, ...] = cast("tuple[Any, ...]", data) if isinstance(data, tuple) else (data,)
    if len(parts) <= 2 and all(hasattr(part, "shape") for part in parts):
        return {name: Held(_array(part, name)) for name, part in zip(("x", "y"), parts, strict=False)}
    given: Any = parts[0] if len(parts) == 1 else parts
    started: Any = given() if callable(given) else given
    if not isinstance(started, Iterable):
        raise UsageError(f"data of type {type(given).__name__}: give a file, a folder, an array, or batches of arrays")
    return spooled(cast("Iterable[Any]", started), cache, graph.inputs, limit)


def _paths(data: object) -> list[Path]:
    if isinstance(data, str | Path):
        return [Path(data)]
    if isinstance(data, Sequence) and data and all(isinstance(item, str | Path) for item in cast("Sequence[Any]", data)):
        return [Path(item) for item in cast("Sequence[Any]", data)]
    return []


def _array(value: Any, name: str) -> AnyArray:
    array = np.asarray(value)
    if not array.ndim:
        raise UsageError(f"data {name} is a single number: give an array with the samples on its first axis")
    return array


def _sizes(graph: Graph) -> tuple[int, ...] | None:
    """(C, *S) of the only input where all of it is known: what images are scaled to."""
    shape = graph.shape(graph.inputs[0]) if len(graph.inputs) == 1 else None
    sizes = tuple(n for n in (shape or ())[1:] if isinstance(n, int))
    return sizes if shape is not None and len(sizes) == len(shape) - 1 else None


def _inputs(columns: Mapping[str, Rows], graph: Graph) -> dict[str, Rows]:
    if set(graph.inputs) <= set(columns):
        return {name: columns[name] for name in graph.inputs}
    if len(graph.inputs) == 1 and "x" in columns:
        return {graph.inputs[0]: columns["x"]}
    wanted = "an array x" if len(graph.inputs) == 1 else f"arrays {', '.join(graph.inputs)}"
    raise UsageError(f"the data holds {', '.join(columns) or 'nothing'}: the model needs {wanted}")


def _count(inputs: Mapping[str, Rows]) -> int:
    counts = {name: rows.shape[0] for name, rows in inputs.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{count} for {name}" for name, count in counts.items())
        raise UsageError(f"the inputs have different numbers of samples ({told}): give as many for each")
    return next(iter(counts.values()))


def _check_scaling(scaling: Scaling | None, graph: Graph) -> None:
    if scaling is None:
        return
    widths = {len(scaling.mean), len(scaling.std)} - {1}
    for name in graph.inputs:
        shape = graph.shape(name)
        channels = shape[1] if shape is not None and len(shape) > 1 else None
        if isinstance(channels, int) and widths - {channels}:
            raise UsageError(
                f"mean and std of {max(widths)} numbers for the {channels} channels of {name}: give one, or one per channel"
            )


def _tensor(array: AnyArray) -> Any:
    wider = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64, "float64": np.float32}.get(array.dtype.name)
    native = np.ascontiguousarray(array, wider or array.dtype.newbyteorder("="))
    return load_torch().from_numpy(native)
