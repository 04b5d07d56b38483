"""What a node that was not read means in NumPy, in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.errors import CannotInterpret
from decascade.formats.onnx.nodes import Native
from decascade.formats.onnx.reference import has_reference, run_node
from decascade.formats.onnx.view import View
from decascade.ir.ops import Evaluate, Foreign


def dynamic_inputs(view: View, native: Native) -> tuple[str, ...]:
    """What a node reads that is not constant, subgraphs included, each once."""
    return tuple(dict.fromkeys(name for name in native.reads if name not in view.constants))


def foreign(view: View, native: Native) -> Foreign:
    """The node, carried through as it is."""
    kind = native.kind if native.standard else f"{native.proto.domain}::{native.kind}"
    return Foreign(kind, _evaluator(view, native))


def constant_source(array: NDArray[Any]) -> Foreign:
    """A constant that is an output of the model."""

    def evaluate(arrays: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        return [array]

    return Foreign("Constant", evaluate)


def _evaluator(view: View, native: Native) -> Evaluate | None:
    if not has_reference(native, view.opset):
        return None
    names = dynamic_inputs(view, native)
    fixed = {name: view.constants[name] for name in native.reads if name in view.constants}

    def evaluate(arrays: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        feeds: Mapping[str, NDArray[Any]] = {n: _wide(a) for n, a in fixed.items()} | dict(zip(names, arrays, strict=True))
        try:
            return run_node(native, view.opsets, feeds)
        except Exception as error:
            told = (str(error).splitlines() or [type(error).__name__])[0]
            raise CannotInterpret(f"ONNX's reference of {native.kind} fails: {told}") from None

    return evaluate


def _wide(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float64) if array.dtype.kind == "f" else array
