"""A training penalty that makes activations provably linear: how far each ReLU is from being stable on a box of inputs.

After Xiao et al. 2019 ("Training for Faster Adversarial Robustness Verification via Inducing ReLU Stability") and Serra
et al. 2020 ("Lossless Compression of Deep Neural Networks"): interval bounds l ≤ z ≤ u of every pre-activation over the
box, differentiable in the weights, and a penalty that falls as l ≥ 0 or u ≤ 0 comes nearer.  Add it to the loss.

Works on chains of layers: PyTorch `nn.Sequential` (nested ones too) and Keras models in which every layer feeds the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from decascade.errors import UsageError

Kind = Literal["active", "distance", "tanh"]
Bounds = tuple[Any, Any]


def stability_loss(
    model: object, input_range: Sequence[float] = (0.0, 1.0), *, kind: Kind = "distance", layers: Sequence[int] | None = None,
    input_shape: Sequence[int] | None = None,
) -> Any:
    """The mean penalty over the neurons of a model's ReLUs, a differentiable scalar of the model's framework.

    kind "distance": min(max(−l, 0), max(u, 0)), how far a neuron is from the nearer stable side; it has a gradient however
    far that is.  "active": max(−l, 0), towards the side that lets a whole layer be merged away.  "tanh": −tanh(1 + l·u), the
    penalty of Xiao et al., which only acts near stability.  `layers`: the ReLUs that count, by their order; all by default.
    `input_shape`: of one sample, (C, *S); a Keras model knows it, for PyTorch it is else the smallest square that fits.

    Raises:
        UsageError: a model that is no chain, a layer without a rule, a range or kind that is none.
    """
    if len(input_range) != 2 or not float(input_range[0]) <= float(input_range[1]):
        raise UsageError(f"input range {tuple(input_range)}: give two numbers, the lowest and the highest value")
    if kind not in ("active", "distance", "tanh"):
        raise UsageError(f"kind = {kind!r}: give one of active, distance, tanh")
    modules = {base.__module__.partition(".")[0] for base in type(model).__mro__}
    walk = _keras if "keras" in modules else _torch if "torch" in modules else None
    if walk is None:
        raise UsageError(f"an object of type {type(model).__name__}: give a torch.nn.Sequential or a keras model")
    shape = None if input_shape is None else tuple(input_shape)
    ops, found = walk(model, (float(input_range[0]), float(input_range[1])), shape)
    picked = list(found) if layers is None else [found[i] for i in layers if -len(found) <= i < len(found)]
    if not picked:
        raise UsageError(f"the model has {len(found)} ReLUs, of which layers = {layers} picks none")
    return sum(ops.mean(_penalty(ops, kind, low, high)) for low, high in picked) / len(picked)


@dataclass(frozen=True, eq=False)
class _Ops:
    """The functions that the penalty needs, of either framework."""

    relu: Callable[[Any], Any]
    minimum: Callable[[Any, Any], Any]
    tanh: Callable[[Any], Any]
    mean: Callable[[Any], Any]


def _penalty(ops: _Ops, kind: Kind, low: Any, high: Any) -> Any:
    if kind == "tanh":
        return -ops.tanh(1 + low * high)
    if kind == "active":
        return ops.relu(-low)
    return ops.minimum(ops.relu(-low), ops.relu(high))


def _torch(model: Any, span: tuple[float, float], shape: tuple[int, ...] | None) -> tuple[_Ops, list[Bounds]]:
    torch: Any = import_module("torch")
    nn, F = torch.nn, torch.nn.functional
    chain = list(_leaves(model, nn))
    first = next((m for m in chain if hasattr(m, "weight")), None)
    if first is None:
        raise UsageError("the model has no layer with weights")
    size, weight, found = shape or _input_size(torch, chain, first), first.weight, list[Bounds]()
    low, high = (torch.full((1, *size), v, dtype=weight.dtype, device=weight.device) for v in span)
    for layer in chain:
        if isinstance(layer, (nn.ReLU, nn.ReLU6)):
            found.append((low, high))
        low, high = _torch_layer(nn, F, layer, low, high)
    return _Ops(torch.relu, torch.minimum, torch.tanh, torch.mean), found


def _leaves(module: Any, nn: Any) -> Iterator[Any]:
    if isinstance(module, nn.Sequential):
        for child in module:
            yield from _leaves(child, nn)
    else:
        yield module


def _input_size(torch: Any, chain: Sequence[Any], first: Any) -> tuple[int, ...]:
    nn = torch.nn
    if isinstance(first, nn.Linear):
        return (int(first.in_features),)
    wanted = next((int(m.in_features) for m in chain if isinstance(m, nn.Linear)), None)
    for n in range(1, 513):
        x = torch.zeros((1, int(first.in_channels), *(n,) * (first.weight.ndim - 2)), device="meta")
        try:
            for layer in chain:
                if isinstance(layer, nn.Linear):
                    break
                x = _shape_step(nn, layer, x)
        except RuntimeError:
            continue
        if wanted is None or (x.ndim == 2 and x.shape[1] == wanted):
            return (int(first.in_channels), *(n,) * (first.weight.ndim - 2))
    raise UsageError("no square input fits the model's dense layers: use an adaptive pool, or square pictures")


def _shape_step(nn: Any, layer: Any, x: Any) -> Any:
    if hasattr(layer, "in_channels"):
        make: Any = getattr(nn, type(layer).__name__)
        shadow = make(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding,
                      dilation=layer.dilation, groups=layer.groups, device="meta")
        return shadow(x)
    plain = isinstance(layer, (nn.Flatten, nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.ZeroPad2d))
    return layer(x) if plain else x


def _torch_layer(nn: Any, F: Any, layer: Any, low: Any, high: Any) -> Bounds:
    middle, radius = (high + low) / 2, (high - low) / 2
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and layer.padding_mode == "zeros":
        convolve = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[layer.weight.ndim]
        options = (layer.stride, layer.padding, layer.dilation, layer.groups)
        middle = convolve(middle, layer.weight, layer.bias, *options)
        radius = convolve(radius, layer.weight.abs(), None, *options)
    elif isinstance(layer, nn.Linear):
        middle, radius = F.linear(middle, layer.weight, layer.bias), F.linear(radius, layer.weight.abs())
    elif isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
        scale = (layer.running_var + layer.eps).rsqrt() * (1 if layer.weight is None else layer.weight)
        shift = (0 if layer.bias is None else layer.bias) - layer.running_mean * scale
        scale, shift = (v.reshape(-1, *(1,) * (middle.ndim - 2)) for v in (scale, shift))
        middle, radius = middle * scale + shift, radius * scale.abs()
    elif isinstance(layer, (nn.ReLU, nn.ReLU6, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool2d,
                            nn.Flatten, nn.Identity, nn.Sigmoid, nn.Tanh, nn.ZeroPad2d)):  # fmt: skip
        return layer(low), layer(high)
    elif not isinstance(layer, nn.Dropout):
        raise UsageError(f"{type(layer).__name__} has no interval rule: the penalty knows chains of convolutions, dense"
                         " layers, batch normalisations, pools and monotone activations")
    return middle - radius, middle + radius


def _keras(model: Any, span: tuple[float, float], _shape: tuple[int, ...] | None) -> tuple[_Ops, list[Bounds]]:
    keras: Any = import_module("keras")
    ops = keras.ops
    shape: Any = model.input_shape
    if isinstance(shape, list) or not all(isinstance(n, int) for n in shape[1:]):
        raise UsageError(f"a model of input shape {shape}: the penalty needs one input of known size")
    low, high = (ops.full((1, *shape[1:]), v, dtype="float32") for v in span)
    found, before = list[Bounds](), None
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            before = layer.output
            continue
        if before is not None and layer.input is not before:
            raise UsageError(f"{layer.name} does not read the layer before it: the penalty needs a chain of layers")
        before = layer.output
        low, high = _keras_layer(keras, layer, low, high, found)
    return _Ops(ops.relu, ops.minimum, ops.tanh, ops.mean), found


def _keras_layer(keras: Any, layer: Any, low: Any, high: Any, found: list[Bounds]) -> Bounds:
    ops, kinds = keras.ops, keras.layers
    middle, radius = (high + low) / 2, (high - low) / 2
    if isinstance(layer, (kinds.Conv1D, kinds.Conv2D, kinds.Conv3D)) and layer.groups == 1:
        options = {"strides": layer.strides, "padding": layer.padding, "dilation_rate": layer.dilation_rate}
        middle = ops.conv(middle, layer.kernel, **options) + (layer.bias if layer.use_bias else 0)
        radius = ops.conv(radius, ops.abs(layer.kernel), **options)
    elif isinstance(layer, kinds.Dense):
        middle = ops.matmul(middle, layer.kernel) + (layer.bias if layer.use_bias else 0)
        radius = ops.matmul(radius, ops.abs(layer.kernel))
    elif isinstance(layer, kinds.BatchNormalization):
        scale = ops.rsqrt(layer.moving_variance + layer.epsilon) * (layer.gamma if layer.scale else 1)
        middle = (middle - layer.moving_mean) * scale + (layer.beta if layer.center else 0)
        radius = radius * ops.abs(scale)
    elif isinstance(layer, (kinds.MaxPooling2D, kinds.AveragePooling2D, kinds.GlobalAveragePooling2D, kinds.Flatten,
                            kinds.ZeroPadding2D)):  # fmt: skip
        return layer(low), layer(high)
    elif isinstance(layer, kinds.Rescaling):
        ends = layer(low), layer(high)
        return ops.minimum(*ends), ops.maximum(*ends)
    elif not isinstance(layer, (kinds.ReLU, kinds.Activation, kinds.Dropout)):
        raise UsageError(f"{type(layer).__name__} has no interval rule: the penalty knows chains of convolutions, dense"
                         " layers, batch normalisations, pools and monotone activations")
    low, high = middle - radius, middle + radius
    return _keras_activation(keras, layer, low, high, found)


def _keras_activation(keras: Any, layer: Any, low: Any, high: Any, found: list[Bounds]) -> Bounds:
    function = getattr(layer, "activation", None)
    name = "relu" if isinstance(layer, keras.layers.ReLU) else getattr(function, "__name__", "linear")
    if name == "relu":
        found.append((low, high))
        return keras.ops.relu(low), keras.ops.relu(high)
    if name in ("sigmoid", "tanh") and function is not None:
        return function(low), function(high)
    if name not in ("linear", "softmax"):
        raise UsageError(f"{layer.name}: activation {name} has no interval rule: use relu, sigmoid, tanh or linear")
    return low, high
