"""Numbers per channel or per entry: `Affine` scales and shifts, `BiasMap` adds a constant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from decascade.algebra.conv import Array
from decascade.errors import GraphError
from decascade.ir import dims
from decascade.ir.dims import UNKNOWN, Shape, show
from decascade.ir.ops.definition import AnyArray, Definition, at_its_own_position
from decascade.ir.ops.rules import array_text, column, need, need_channels, rms, unary


@dataclass(frozen=True, eq=False)
class Affine:
    """y[:, c] = scale[c]·x[:, c] + shift[c]: a batch normalisation with its stored epsilon, a scale, a shift."""

    scale: Array
    shift: Array


@dataclass(frozen=True, eq=False)
class BiasMap:
    """Adds a constant of shape (C, *S) to every sample."""

    values: Array


def _affine_shape(op: Affine, x: Shape) -> Shape:
    need(op, x, None)
    if op.scale.ndim != 1 or op.scale.shape != op.shift.shape:
        raise GraphError(f"Affine scale {op.scale.shape} and shift {op.shift.shape} must both be (C,)")
    need_channels(op, x, len(op.scale))
    return (x[0], len(op.scale), *x[2:])


def _bias_map_shape(op: BiasMap, x: Shape) -> Shape:
    both = dims.joined(x, (UNKNOWN, *op.values.shape))
    if both is None:
        raise GraphError(f"BiasMap of shape {op.values.shape} does not fit its input {show(x)}")
    return both


def _least(op: BiasMap) -> Shape:
    return (UNKNOWN, *op.values.shape)


def _affine_meaning(op: Affine, arrays: Sequence[AnyArray]) -> AnyArray:
    x = arrays[0]
    return column(op.scale, x.ndim) * x + column(op.shift, x.ndim)


def _bias_map_meaning(op: BiasMap, arrays: Sequence[AnyArray]) -> AnyArray:
    return arrays[0] + op.values.astype(np.float64)


def _affine_text(op: Affine) -> list[str]:
    return [f"{op.scale.size} scale rms {rms(op.scale)}", f"shift rms {rms(op.shift)}"]


def _bias_map_text(op: BiasMap) -> list[str]:
    return [array_text(op.values)]


def _affine_weights(op: Affine) -> Mapping[str, AnyArray]:
    return {"scale": op.scale, "shift": op.shift}


def _bias_map_weights(op: BiasMap) -> Mapping[str, AnyArray]:
    return {"values": op.values}


def _with_weights(op: Any, arrays: Mapping[str, AnyArray]) -> Any:
    return replace(op, **arrays)


AFFINE = Definition(
    unary(_affine_shape), _affine_meaning, "scale and shift", text=_affine_text, linear=True, pointwise=True, any_size=True,
    per_channel=True, joins=True, folds="scale and shift", axes=at_its_own_position, weights=_affine_weights,
    with_weights=_with_weights,
)
BIAS_MAP = Definition(
    unary(_bias_map_shape, _least), _bias_map_meaning, "constant map", text=_bias_map_text, linear=True, per_channel=True,
    axes=at_its_own_position, weights=_bias_map_weights, with_weights=_with_weights,
)
