"""Which reader reads which call: one table for torch.nn.functional, torch, tensor methods and aten alike, by bare name."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

from decascade.errors import AlgebraError, FormatError
from decascade.formats.torch import ops, pools
from decascade.formats.torch.common import load
from decascade.formats.torch.modules import module_call
from decascade.formats.torch.ops import Context, Reading, activation
from decascade.formats.torch.pure import call_name
from decascade.formats.torch.values import NotConstantError

Reader = Callable[..., Reading | None]


def _ranks(pattern: str, reader: Reader) -> dict[str, Reader]:
    return {pattern.format(rank): reader for rank in (1, 2, 3)}


READERS: dict[str, Reader] = {
    "conv": ops.conv,
    **_ranks("conv{}d", ops.conv),
    "conv_transpose": ops.conv_transpose,
    **_ranks("conv_transpose{}d", ops.conv_transpose),
    "convolution": ops.convolution,
    "linear": ops.linear,
    "addmm": ops.addmm,
    "mm": ops.matmul,
    "matmul": ops.matmul,
    "batch_norm": ops.batch_norm,
    "instance_norm": ops.batch_norm,
    "_native_batch_norm_legit_no_training": ops.native_batch_norm,
    **dict.fromkeys(("identity", "contiguous", "clone", "detach", "alias", "lift_fresh_copy"), ops.identity),
    **dict.fromkeys(("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout"), ops.dropout),
    **dict.fromkeys(("feature_alpha_dropout", "native_dropout"), ops.dropout),
    **dict.fromkeys(("cat", "concat", "concatenate"), ops.concat),
    "pad": ops.pad,
    "constant_pad_nd": ops.constant_pad,
    "interpolate": ops.interpolate,
    "upsample": ops.interpolate,
    **_ranks("upsample_nearest{}d", ops.upsample_nearest),
    "channel_shuffle": ops.channel_shuffle,
    "native_channel_shuffle": ops.channel_shuffle,
    **_ranks("avg_pool{}d", pools.avg_pool),
    **_ranks("max_pool{}d", pools.max_pool),
    **_ranks("max_pool{}d_with_indices", pools.max_pool),
    **_ranks("adaptive_avg_pool{}d", pools.adaptive_avg_pool),
    **_ranks("_adaptive_avg_pool{}d", pools.adaptive_avg_pool),
    **_ranks("adaptive_max_pool{}d", pools.adaptive_max_pool),
    "avg_pool": pools.avg_pool,
    "max_pool": pools.max_pool,
    "adaptive_avg_pool": pools.adaptive_avg_pool,
    "adaptive_max_pool": pools.adaptive_max_pool,
    "mean": pools.mean,
    "amax": pools.amax,
    "add": pools.add,
    "sub": pools.sub,
    "subtract": pools.sub,
    "rsub": pools.rsub,
    "mul": pools.mul,
    "multiply": pools.mul,
    "div": pools.div,
    "divide": pools.div,
    "truediv": pools.div,
    "neg": pools.neg,
    "negative": pools.neg,
    "relu": activation("relu"),
    "relu6": ops.relu6,
    "hardtanh": ops.hardtanh,
    "clamp": ops.clamp,
    "clip": ops.clamp,
    "clamp_min": ops.bound_below,
    "clamp_max": ops.bound_above,
    "maximum": ops.bound_below,
    "minimum": ops.bound_above,
    "leaky_relu": activation("leaky_relu", "negative_slope", negative_slope=0.01),
    "rrelu": ops.rrelu,
    "prelu": ops.prelu,
    "_prelu_kernel": ops.prelu,
    "elu": ops.elu,
    "selu": activation("selu"),
    "sigmoid": activation("sigmoid"),
    "tanh": activation("tanh"),
    "hardsigmoid": ops.hardsigmoid,
    "hardswish": activation("hard_swish"),
    "silu": activation("silu"),
    "gelu": ops.gelu,
    "softplus": ops.softplus,
    "softsign": activation("softsign"),
    "exp": activation("exp"),
    "abs": activation("abs"),
    "absolute": activation("abs"),
    "sqrt": activation("sqrt"),
    "softmax": ops.softmax,
    "_softmax": ops.softmax_of_half,
}

@cache
def _namespaces() -> tuple[Any, ...]:
    torch = load()
    return torch, torch.nn.functional, torch.Tensor, operator, import_module("torch._C")._nn, torch.special


def read_call(node: Any, ctx: Context) -> Reading | None:
    """What a call means; None where it is not understood."""
    if node.op == "call_module":
        call = module_call(ctx.values.module.get_submodule(node.target))
        if call is None or not node.args or node.kwargs or len(node.args) != 1:
            return None
        return _read(call[0], ctx, (node.args[0], *call[1]), {})
    name = call_name(node)
    if name == "getitem" and node.args[1] == 0:
        source = node.args[0]
        if _gives_several(source) and _of_torch(source, call_name(source)):
            return _read(call_name(source), ctx, source.args, source.kwargs)
    if _gives_several(node) or not _of_torch(node, name):
        return None
    functional = load().nn.functional
    if node.target is functional.batch_norm:
        return _guarded(ops.functional_batch_norm, ctx, node.args, node.kwargs)
    if node.target is functional.instance_norm:
        return None
    return _read(name, ctx, node.args, node.kwargs)


def _gives_several(node: Any) -> bool:
    """Whether a call of aten gives several tensors; a reader then means the first."""
    schema = getattr(node.target, "_schema", None) if node.op == "call_function" else None
    return schema is not None and len(schema.returns) > 1


def _of_torch(node: Any, name: str) -> bool:
    """Not somebody's own function that happens to be called like torch's."""
    if node.op == "call_method":
        return True
    if hasattr(node.target, "overloadpacket"):
        return bool(node.target.namespace == "aten")
    return any(getattr(space, name, None) is node.target for space in _namespaces())


def _read(name: str, ctx: Context, args: Any, kwargs: Any) -> Reading | None:
    reader = READERS.get(name)
    return None if reader is None else _guarded(reader, ctx, args, kwargs)


def _guarded(reader: Reader, ctx: Context, args: Any, kwargs: Any) -> Reading | None:
    """The reader's answer; a form it does not take (an odd argument, a weight that is computed) is not understood."""
    named: dict[str, Any] = {_RENAMED.get(str(key), str(key)): value for key, value in kwargs.items()}
    try:
        with load().no_grad():
            found = reader(ctx, *map(ctx.number, args), **{key: ctx.number(value) for key, value in named.items()})
    except FormatError:
        raise  # numbers that mean nothing
    except (TypeError, ValueError, NotConstantError, AlgebraError, AttributeError):
        return None
    return found if found is not None and all(ctx.values.is_tensor(source) for source in found[1]) else None


_RENAMED = {"input": "x", "self": "x", "mat2": "matrix"}
