"""How the samples of an input come to lie as the graph has them: (N, C, *S)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from decascade.compression.data.rows import AnyArray, Rows
from decascade.errors import UsageError
from decascade.ir.graph import Graph
from decascade.ir.shapes import show

Convert = Callable[[AnyArray], AnyArray]


def layout_for(
    name: str, rows: Rows, graph: Graph, to_graph: Callable[[str, AnyArray], AnyArray] | None
) -> tuple[Convert, str]:
    """The conversion of a batch of stored samples, and a remark where it is not the model's own layout.

    The model's own layout goes first, then the samples as they are, then channels-last, then samples without a channel axis.

    Raises:
        UsageError: no samples, or no way in which they fit the input.
    """
    if not rows.shape[0]:
        raise UsageError(f"the data holds no samples for {name}")
    sample = np.empty((1, *rows.shape[1:]), np.uint8)
    wanted = graph.shape(name)
    for convert, note in _ways(name, to_graph):
        try:
            shape = convert(sample).shape
        except (ValueError, IndexError):
            continue
        if wanted is None or _fits(shape[1:], wanted[1:]):
            return convert, f"the samples of {name} are read as {note}" if note else ""
    takes = show(tuple(wanted or ())[1:])
    raise UsageError(
        f"samples of shape {rows.shape[1:]} for {name}, which takes {takes} (channels first): give data as the model takes it"
    )


def _ways(name: str, to_graph: Callable[[str, AnyArray], AnyArray] | None) -> list[tuple[Convert, str]]:
    ways: list[tuple[Convert, str]] = [(lambda x: x, "channels-first" if to_graph else "")]
    if to_graph is not None:
        native = to_graph
        ways.insert(0, (lambda x: np.asarray(native(name, x)), ""))
    return [*ways, (_channels_last, "channels-last"), (_channel_added, "one channel")]


def _channels_last(x: AnyArray) -> AnyArray:
    return np.ascontiguousarray(np.moveaxis(x, -1, 1))


def _channel_added(x: AnyArray) -> AnyArray:
    return x[:, None]


def _fits(shape: Sequence[int], wanted: Sequence[Any]) -> bool:
    return len(shape) == len(wanted) and all(isinstance(w, str) or n == w for n, w in zip(shape, wanted, strict=True))
