"""Questions about operations; each is answered by the operation's own definition and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.axis import Axis
from decascade.algebra.conv import Conv, ConvTranspose, Layer
from decascade.ir.ops import Activation, Dense, Op, definition_of
from decascade.ir.ops.activation import Kind, kind_of
from decascade.ir.ops.definition import Trait

Weights = Mapping[str, NDArray[Any]]


def _holds(trait: Trait, op: object) -> bool:
    return trait if isinstance(trait, bool) else trait(op)


def is_linear(op: Op) -> bool:
    """Whether the operation is affine in its inputs."""
    return _holds(definition_of(op).linear, op)


def moves_values(op: Op) -> bool:
    """Whether every entry of the output is an entry of an input, at a place that no value decides."""
    return definition_of(op).moves


def is_view(op: Op) -> bool:
    """Whether no runtime computes anything for it."""
    return definition_of(op).view


def is_pointwise(op: Op) -> bool:
    """Whether each output position depends on the same position of the one input, everywhere in the same way."""
    return _holds(definition_of(op).pointwise, op)


def is_per_channel(op: Op) -> bool:
    """Whether output channel c depends on input channel c alone, and there are as many channels."""
    return _holds(definition_of(op).per_channel, op)


def is_any_size(op: Op) -> bool:
    """Whether the same operation is meant on a map of another size."""
    return definition_of(op).any_size


def is_layer(op: Op) -> bool:
    """Whether a user would count it as a layer of a cascade."""
    return definition_of(op).layer


def takes_activation(op: Op) -> bool:
    """Whether runtimes compute an activation behind it along with it."""
    return definition_of(op).activation


def joins_neighbours(op: Op) -> bool:
    """Whether runtimes compute it along with the layer before it, or not at all: what it costs alone says nothing."""
    return definition_of(op).joins


def folded_as(op: Op) -> str:
    """What a convolution takes it up as, without being merged with another; empty if it does not."""
    return definition_of(op).folds


def words(op: Op) -> str:
    """The operation in words: "depthwise 3x3 convolution, stride 2"."""
    found = definition_of(op).words
    return found if isinstance(found, str) else found(op)


def axes(op: Op, rank: int) -> tuple[Axis, ...] | None:
    """Per spatial axis (of `rank`) what an output position sees of each input; None where no window describes it."""
    return definition_of(op).axes(op, rank)


def weights(op: Op) -> Weights:
    """The arrays that the operation stores, by field name."""
    return definition_of(op).weights(op)


def with_weights(op: Op, arrays: Weights) -> Op:
    """The operation with some of its arrays exchanged, by field name."""
    return definition_of(op).with_weights(op, arrays)


def with_channels(op: Op, kept: NDArray[np.int64]) -> Op:
    """A per-channel operation on the kept channels alone: every array that it stores has the channels first."""
    if isinstance(op, Conv):
        bias = None if op.bias is None else op.bias[kept]
        return Conv(op.weight[kept], bias, op.stride, op.dilation, op.padding, len(kept))
    return with_weights(op, {name: array[kept] for name, array in weights(op).items()})


def layer_of(op: Op) -> Layer | None:
    """The layer of the algebra that the operation is; None for one without a kernel."""
    if isinstance(op, Dense):
        return op.layer
    return op if isinstance(op, (Conv, ConvTranspose)) else None


def activation_kind(op: Op) -> Kind | None:
    """What is known of the function that an activation is; None for any other operation."""
    return kind_of(op) if isinstance(op, Activation) else None


def is_element_wise(op: Op) -> bool:
    """Whether it is an activation of each entry by itself."""
    kind = activation_kind(op)
    return kind is not None and kind.element_wise


def is_homogeneous(op: Op) -> bool:
    """Whether it is an activation with f(s·x) = s·f(x) for s > 0."""
    kind = activation_kind(op)
    return kind is not None and kind.homogeneous


def is_monotone(op: Op) -> bool:
    """Whether it is an activation with f(x) ≤ f(y) for x ≤ y, wherever it is defined."""
    kind = activation_kind(op)
    return kind is not None and _holds(kind.monotone, op)


def is_total(op: Op) -> bool:
    """Whether it is an activation that is defined for every number."""
    kind = activation_kind(op)
    return kind is not None and kind.total
