"""The operations of the graph: frozen values whose fields are their options.  Tensors are channels-first (N, C, *S).

A convolution is the algebra's own `Conv` or `ConvTranspose`.  What is not understood is `Foreign`.  Each module holds an
operation or a family of them, with all that is said of it (`definition.Definition`); `traits` answers questions about them.
"""

from __future__ import annotations

from decascade.algebra.conv import Conv, ConvTranspose
from decascade.ir.ops.activation import ACTIVATION, Activation
from decascade.ir.ops.affine import AFFINE, BIAS_MAP, Affine, BiasMap
from decascade.ir.ops.convolution import CONV, CONV_TRANSPOSE, DENSE, Dense
from decascade.ir.ops.definition import Definition
from decascade.ir.ops.foreign import FOREIGN, Evaluate, Foreign
from decascade.ir.ops.moves import (
    CONCAT,
    FLATTEN,
    IDENTITY,
    PAD,
    SELECT,
    SLICE,
    UPSAMPLE,
    Concat,
    Flatten,
    Identity,
    Pad,
    Select,
    Slice,
    Upsample,
)
from decascade.ir.ops.pool import GLOBAL_POOL, POOL, GlobalPool, Pool
from decascade.ir.ops.sums import ADD, PRODUCT, Add, Product

Op = (
    Conv | ConvTranspose | Dense | Affine | Pool | GlobalPool | Flatten | Pad | Add | Product | Concat | Select | Slice
    | Upsample | Identity | BiasMap | Activation | Foreign
)

DEFINITIONS: dict[type[Op], Definition] = {
    Conv: CONV,
    ConvTranspose: CONV_TRANSPOSE,
    Dense: DENSE,
    Affine: AFFINE,
    Pool: POOL,
    GlobalPool: GLOBAL_POOL,
    Flatten: FLATTEN,
    Pad: PAD,
    Add: ADD,
    Product: PRODUCT,
    Concat: CONCAT,
    Select: SELECT,
    Slice: SLICE,
    Upsample: UPSAMPLE,
    Identity: IDENTITY,
    BiasMap: BIAS_MAP,
    Activation: ACTIVATION,
    Foreign: FOREIGN,
}
"""Every operation there is; a member of `Op` without an entry does not type-check and fails the tests."""


def definition_of(op: Op) -> Definition:
    """What is said of an operation's class."""
    return DEFINITIONS[type(op)]


__all__ = [
    "DEFINITIONS", "Activation", "Add", "Affine", "BiasMap", "Concat", "Conv", "ConvTranspose", "Definition", "Dense",
    "Evaluate", "Flatten", "Foreign", "GlobalPool", "Identity", "Op", "Pad", "Pool", "Product", "Select", "Slice", "Upsample",
    "definition_of",
]
