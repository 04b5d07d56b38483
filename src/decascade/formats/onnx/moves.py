"""Readers of dropout, casts, padding, concatenation and nearest-neighbour resizing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from decascade.formats.onnx.layers import Matches, Reader, known_shape, one
from decascade.formats.onnx.nodes import Native
from decascade.formats.onnx.view import View
from decascade.ir.ops import Concat, Identity, Pad, Upsample


def _read_dropout(view: View, native: Native) -> Matches:
    """At inference; not where it is told to train, or where the mask is read."""
    training = view.constant(native.input(2))
    if native.input(2) and (training is None or training.any()):
        return None
    mask = native.outputs[1] if len(native.outputs) > 1 else ""
    return None if mask and (mask in view.outputs or view.users.get(mask)) else one(native, Identity())


def _read_cast(view: View, native: Native) -> Matches:
    """A cast to the type that is there."""
    element: Any = import_module("onnx.helper").tensor_dtype_to_np_dtype
    same = np.dtype(element(native.get("to", 0))).name == view.dtypes.get(native.inputs[0]) if native.get("to") else False
    return one(native, Identity()) if same else None


def _read_pad(view: View, native: Native) -> Matches:
    """Constant padding and cropping of channels and spatial axes."""
    shape = known_shape(view, native.inputs[0])
    if shape is None or native.get("mode", "constant") != "constant":
        return None
    pads, value = native.get("pads"), native.get("value", 0.0)
    axes: Sequence[int] = range(len(shape))
    if view.opset >= 11:
        given = [view.constant(native.input(k)) for k in range(1, 4)]
        if any(array is None and native.input(k) for k, array in enumerate(given, start=1)):
            return None
        pads = None if given[0] is None else given[0].reshape(-1).tolist()
        value = 0.0 if given[1] is None else float(given[1].reshape(()))
        axes = axes if given[2] is None else [int(a) % len(shape) for a in given[2].reshape(-1)]
    if pads is None or len(pads) != 2 * len(axes) or not np.isfinite(value):
        return None
    full = dict.fromkeys(range(len(shape)), (0, 0))
    full.update(zip(axes, zip(pads[: len(axes)], pads[len(axes) :], strict=True), strict=True))
    if any(full[0]):
        return None
    return one(native, Pad(tuple(full[k] for k in range(2, len(shape))), value, full[1]))


def _read_concat(view: View, native: Native) -> Matches:
    shape = view.shapes.get(native.inputs[0])
    if shape is None or any(name in view.constants for name in native.inputs):
        return None
    axis = native.get("axis", 1) % len(shape)
    if len(native.inputs) == 1:
        return one(native, Identity())
    return one(native, Concat(axis), *native.inputs) if axis else None


def _factors(view: View, native: Native, shape: Sequence[int | str]) -> list[float] | None:
    """Scale per axis, from scales or sizes."""
    scales = native.get("scales")
    position = 1 if native.kind == "Upsample" or view.opset < 11 else 2
    if native.input(position):
        array = view.constant(native.input(position))
        scales = None if array is None else array.reshape(-1).tolist()
    if not scales and native.kind == "Resize" and native.input(3):
        sizes = view.constant(native.input(3))
        if sizes is None or any(isinstance(n, str) for n in shape[2:]) or sizes.size != len(shape):
            return None
        if native.get("keep_aspect_ratio_policy", "stretch") != "stretch" or sizes[0] != shape[0] or sizes[1] != shape[1]:
            return None
        return [1.0, 1.0, *(float(m) / n for m, n in zip(sizes[2:], shape[2:], strict=True) if isinstance(n, int))]
    return None if not scales or native.get("axes") else scales


def _repeats(view: View, native: Native, factors: Sequence[int]) -> bool:
    """Whether the rounding picks sample i // factor for output i."""
    if native.kind == "Upsample" or view.opset < 11:
        return True
    place = native.get("coordinate_transformation_mode", "half_pixel")
    rounding = native.get("nearest_mode", "round_prefer_floor")
    if place in ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel"):
        return rounding in ("round_prefer_floor", "round_prefer_ceil")
    return place == "asymmetric" and (rounding == "floor" or (rounding == "round_prefer_floor" and max(factors) <= 2))


def _read_resize(view: View, native: Native) -> Matches:
    """Nearest-neighbour enlargement by whole factors that repeats every sample."""
    shape = known_shape(view, native.inputs[0])
    if shape is None or len(shape) < 3 or native.get("mode", "nearest") != "nearest":
        return None
    scales = _factors(view, native, shape)
    if scales is None or len(scales) != len(shape) or scales[0] != 1 or scales[1] != 1:
        return None
    factors = [int(f) for f in scales[2:]]
    if any(f < 1 or f != s for f, s in zip(factors, scales[2:], strict=True)) or not _repeats(view, native, factors):
        return None
    return one(native, Upsample(tuple(factors)))


READERS: Mapping[str, Reader] = {
    "Dropout": _read_dropout,
    "Cast": _read_cast,
    "Pad": _read_pad,
    "Concat": _read_concat,
    "Resize": _read_resize,
    "Upsample": _read_resize,
}
