"""The torch.nn modules that are understood, each as the functional call that it makes in eval mode."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

from decascade.formats.torch.common import load

Call = tuple[str, tuple[Any, ...]]
"""The name of a reader and its arguments after the input."""

_OWN_METHODS = ("forward", "_conv_forward", "_output_padding", "_check_input_dim")


def known_base(module: Any) -> str:
    """The name of the torch.nn class whose forward this module runs, "" where there is none or it is changed.

    A user's subclass that only sets arguments counts as its base; one with a forward of its own does not.
    """
    nn = load().nn
    bases: tuple[Any, ...] = type(module).__mro__
    for base in bases:
        name = base.__name__
        if name in _CALLS and getattr(nn, name, None) is base:
            kind = cast(Any, type(module))
            same = all(getattr(kind, method, None) is getattr(base, method, None) for method in _OWN_METHODS)
            return name if same else ""
    return ""


def module_call(module: Any) -> Call | None:
    """The functional call that a module stands for; None for a module that is not understood."""
    name = known_base(module)
    return _CALLS[name](module) if name else None


def _conv(m: Any) -> Call | None:
    if m.padding_mode != "zeros":
        return None
    return "conv", (m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups)


def _conv_transpose(m: Any) -> Call:
    return "conv_transpose", (m.weight, m.bias, m.stride, m.padding, m.output_padding, m.groups, m.dilation)


def _batch_norm(m: Any) -> Call | None:
    if m.running_mean is None or m.running_var is None:
        return None
    return "batch_norm", (m.weight, m.bias, m.running_mean, m.running_var, False, m.momentum, m.eps)


def _avg_pool(m: Any) -> Call:
    divisor = getattr(m, "divisor_override", None)
    return "avg_pool", (m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, divisor)


def _max_pool(m: Any) -> Call | None:
    if m.return_indices:
        return None
    return "max_pool", (m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode)


def _adaptive_max_pool(m: Any) -> Call | None:
    return None if m.return_indices else ("adaptive_max_pool", (m.output_size,))


def _pad(m: Any) -> Call:
    return "pad", (m.padding, "constant", getattr(m, "value", 0.0))


def _upsample(m: Any) -> Call | None:
    return ("interpolate", (m.size, m.scale_factor, m.mode)) if m.mode in ("nearest", "nearest-exact") else None


def _fixed(name: str, *attributes: str) -> Callable[[Any], Call]:
    return lambda m: (name, tuple(getattr(m, attribute) for attribute in attributes))


def _ranks(prefix: str, build: Callable[[Any], Call | None]) -> dict[str, Callable[[Any], Call | None]]:
    return {f"{prefix}{rank}d": build for rank in (1, 2, 3)}


_CALLS: dict[str, Callable[[Any], Call | None]] = {
    **_ranks("Conv", _conv),
    **_ranks("ConvTranspose", _conv_transpose),
    **_ranks("BatchNorm", _batch_norm),
    "SyncBatchNorm": _batch_norm,
    **_ranks("InstanceNorm", _batch_norm),
    "Linear": _fixed("linear", "weight", "bias"),
    **_ranks("AvgPool", _avg_pool),
    **_ranks("MaxPool", _max_pool),
    **_ranks("AdaptiveAvgPool", _fixed("adaptive_avg_pool", "output_size")),
    **_ranks("AdaptiveMaxPool", _adaptive_max_pool),
    **_ranks("ZeroPad", _pad),
    **_ranks("ConstantPad", _pad),
    **_ranks("Dropout", _fixed("identity")),
    "Dropout": _fixed("identity"),
    "AlphaDropout": _fixed("identity"),
    "FeatureAlphaDropout": _fixed("identity"),
    "Identity": _fixed("identity"),
    "Upsample": _upsample,
    "UpsamplingNearest2d": _upsample,
    "ChannelShuffle": _fixed("channel_shuffle", "groups"),
    "ReLU": _fixed("relu"),
    "ReLU6": _fixed("relu6"),
    "Hardtanh": _fixed("hardtanh", "min_val", "max_val"),
    "LeakyReLU": _fixed("leaky_relu", "negative_slope"),
    "PReLU": _fixed("prelu", "weight"),
    "RReLU": lambda m: ("leaky_relu", ((m.lower + m.upper) / 2,)),
    "ELU": _fixed("elu", "alpha"),
    "SELU": _fixed("selu"),
    "Sigmoid": _fixed("sigmoid"),
    "Tanh": _fixed("tanh"),
    "Hardsigmoid": _fixed("hardsigmoid"),
    "Hardswish": _fixed("hardswish"),
    "SiLU": _fixed("silu"),
    "GELU": _fixed("gelu", "approximate"),
    "Softplus": _fixed("softplus", "beta", "threshold"),
    "Softsign": _fixed("softsign"),
    "Softmax": _fixed("softmax", "dim"),
}


@cache
def layout_modules() -> tuple[Any, ...]:
    """Modules that only move values: what they do is read off an index tensor."""
    nn = load().nn
    return (nn.Flatten, nn.Unflatten)
