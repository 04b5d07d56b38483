"""Int8 TFLite files written table by table, and random networks in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

INT8, INT32 = schema.TensorType.INT8, schema.TensorType.INT32


class FileWriter:
    """One subgraph; `map` and `stored` give tensor indices, `op` adds an operation on them."""

    def __init__(self) -> None:
        self.tensors: list[Any] = []
        self.buffers: list[Any] = [schema.BufferT()]
        self.operators: list[Any] = []
        self.codes: list[str] = []

    def map(self, shape: Sequence[int], scale: float, zero: int) -> int:
        return self._tensor(shape, INT8, [scale], [zero], 0, 0)

    def stored(self, values: NDArray[Any], scales: Sequence[float] = (), zero: int = 0, axis: int = 0) -> int:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self.buffers.append(buffer)
        kind = INT8 if values.dtype == np.int8 else INT32
        return self._tensor(values.shape, kind, scales, [zero] * len(scales), axis, len(self.buffers) - 1)

    def _tensor(
        self, shape: Sequence[int], kind: int, scales: Sequence[float], zeros: Sequence[int], axis: int, at: int
    ) -> int:
        tensor = schema.TensorT()
        tensor.shape, tensor.type, tensor.buffer = [int(n) for n in shape], kind, at
        tensor.name = f"t{len(self.tensors)}".encode()
        if len(scales):
            q = schema.QuantizationParametersT()
            q.scale, q.zeroPoint = [float(np.float32(s)) for s in scales], [int(z) for z in zeros]
            q.quantizedDimension = axis
            tensor.quantization = q
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def shape(self, index: int) -> list[int]:
        return list(self.tensors[index].shape)

    def quantum(self, index: int) -> tuple[float, int]:
        q = self.tensors[index].quantization
        return float(q.scale[0]), int(q.zeroPoint[0])

    def op(self, kind: str, inputs: Sequence[int], outputs: Sequence[int], options: str = "", **fields: Any) -> None:
        operator = schema.OperatorT()
        if kind not in self.codes:
            self.codes.append(kind)
        operator.opcodeIndex = self.codes.index(kind)
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        if options:
            operator.builtinOptions = getattr(schema, f"{options}T")()
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            for name, value in fields.items():
                setattr(operator.builtinOptions, name, value)
        self.operators.append(operator)

    def bytes(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs, graph.outputs = list(inputs), list(outputs)
        model = schema.ModelT()
        model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [graph], self.buffers, []
        for kind in self.codes:
            code = schema.OperatorCodeT()
            number = getattr(schema.BuiltinOperator, kind)
            code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
            model.operatorCodes.append(code)
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def out_size(size: int, kernel: int, stride: int, dilation: int, same: bool) -> int:
    return -(-size // stride) if same else -(-(size - (kernel - 1) * dilation) // stride)


def add_unary(file: FileWriter, x: int, kind: str, quantum: tuple[float, int]) -> int:
    options, fields = UNARY[kind]
    y = file.map(file.shape(x), *quantum)
    file.op(kind, [x], [y], options, **fields)
    return y


class RandomNet:
    """A random network of so many operations; `scales` also at the edges: multipliers from 2^−20 to above 1, any zero point."""

    def __init__(self, seed: int, steps: int = 6) -> None:
        self.rng = np.random.default_rng(seed)
        self.file = FileWriter()
        rng = self.rng
        flat = rng.random() < 0.15
        height = 1 if flat else int(rng.integers(1, 14))
        self.source = self.file.map((1, height, int(rng.integers(1, 14)), int(rng.choice([1, 2, 3, 4, 5, 8]))), *self.quantum())
        self.maps = [self.source]
        for _ in range(int(rng.integers(1, steps + 1))):
            self.maps.append(self.step(self.maps[-1]))
        if rng.random() < 0.5:
            self.maps.append(self.tail(self.maps[-1]))

    def bytes(self) -> bytes:
        return self.file.bytes([self.source], [self.maps[-1]])

    def quantum(self) -> tuple[float, int]:
        zero = int(self.rng.choice([-128, 127, 0, int(self.rng.integers(-128, 128))], p=[0.3, 0.05, 0.15, 0.5]))
        return float(np.exp(self.rng.uniform(-6, 1))), zero

    def step(self, x: int) -> int:
        rare = [self.concat, self.pad, self.unary]
        choices = [self.conv] * 4 + [self.depthwise] * 3 + [self.pool] * 2 + [self.add] * 3 + rare
        for _ in range(20):
            found = choices[int(self.rng.integers(len(choices)))](x)
            if found is not None:
                return int(found)
        return self.conv(x) or x

    def weights(self, shape: tuple[int, ...], axis: int, x: int, out: tuple[float, int]) -> tuple[int, int]:
        """Weights whose multipliers are mostly such that outputs fill int8, sometimes anything; and a bias."""
        rng, channels = self.rng, shape[axis]
        values = rng.integers(-127, 128, shape).astype(np.int8)
        if rng.random() < 0.3:
            values[rng.random(shape) < 0.7] = 0
        terms = np.prod(shape) / channels
        typical = out[0] / (self.file.quantum(x)[0] * np.sqrt(terms) * 40)
        wild = rng.random() < 0.2
        scales = typical * np.exp(rng.uniform(*((-9, 5) if wild else (-0.7, 0.7)), channels))
        size = 1 << int(rng.choice([8, 12, 16, 28 if wild else 12]))
        bias = rng.integers(-size, size, channels).astype(np.int32)
        return self.file.stored(values, scales, axis=axis), self.file.stored(bias, scales * self.file.quantum(x)[0])

    def window(self, x: int, dilates: bool = True) -> tuple[tuple[int, int], dict[str, int], tuple[int, int]] | None:
        rng = self.rng
        _, height, width, _ = self.file.shape(x)
        kernel = (int(rng.integers(1, 6)), int(rng.integers(1, 6)))
        if rng.random() < 0.5:
            kernel = (3, 3) if rng.random() < 0.6 else (1, 1)
        stride = (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
        dilation = (int(rng.integers(1, 4)), int(rng.integers(1, 4))) if dilates and rng.random() < 0.15 else (1, 1)
        if dilation != (1, 1):
            stride = (1, 1)
        same = bool(rng.random() < 0.6)
        sizes = zip((height, width), kernel, stride, dilation, strict=True)
        out = tuple(out_size(*size, same) for size in sizes)
        if min(out) < 1:
            return None
        options = {"padding": 0 if same else 1, "strideH": stride[0], "strideW": stride[1]}
        if dilates:
            options |= {"dilationHFactor": dilation[0], "dilationWFactor": dilation[1]}
        return kernel, options, (out[0], out[1])

    def activation(self) -> int:
        return int(self.rng.choice([0, 1, 3, 2], p=[0.5, 0.3, 0.15, 0.05]))

    def conv(self, x: int) -> int | None:
        found = self.window(x)
        if found is None:
            return None
        kernel, options, size = found
        channels, outs = self.file.shape(x)[3], int(self.rng.integers(1, 13))
        groups = 1
        if self.rng.random() < 0.1 and channels % 2 == 0:
            groups, outs = 2, 2 * outs
        out = self.quantum()
        weights, bias = self.weights((outs, *kernel, channels // groups), 0, x, out)
        y = self.file.map((1, *size, outs), *out)
        inputs = [x, weights] if self.rng.random() < 0.1 else [x, weights, bias]
        self.file.op("CONV_2D", inputs, [y], "Conv2DOptions", fusedActivationFunction=self.activation(), **options)
        return y

    def depthwise(self, x: int) -> int | None:
        found = self.window(x)
        if found is None:
            return None
        kernel, options, size = found
        multiplier = int(self.rng.choice([1, 1, 1, 2, 3]))
        outs, out = self.file.shape(x)[3] * multiplier, self.quantum()
        weights, bias = self.weights((1, *kernel, outs), 3, x, out)
        y = self.file.map((1, *size, outs), *out)
        self.file.op("DEPTHWISE_CONV_2D", [x, weights, bias], [y], "DepthwiseConv2DOptions", depthMultiplier=multiplier,
                     fusedActivationFunction=self.activation(), **options)
        return y

    def pool(self, x: int) -> int | None:
        found = self.window(x, dilates=False)
        if found is None:
            return None
        kernel, options, size = found
        y = self.file.map((1, *size, self.file.shape(x)[3]), *self.file.quantum(x))
        kind = self.rng.choice(["AVERAGE_POOL_2D", "MAX_POOL_2D"])
        self.file.op(str(kind), [x], [y], "Pool2DOptions", filterHeight=kernel[0], filterWidth=kernel[1],
                     fusedActivationFunction=self.activation(), **options)
        return y

    def alike(self, x: int) -> int | None:
        """Another map of the same shape, mostly one that is there already."""
        same = [m for m in self.maps if m != x and self.file.shape(m) == self.file.shape(x)]
        if same and self.rng.random() < 0.7:
            return int(self.rng.choice(same))
        channels, out = self.file.shape(x)[3], self.quantum()
        weights, bias = self.weights((channels, 3, 3, channels), 0, x, out)
        y = self.file.map(self.file.shape(x), *out)
        self.file.op("CONV_2D", [x, weights, bias], [y], "Conv2DOptions", padding=0, strideH=1, strideW=1, dilationHFactor=1,
                     dilationWFactor=1, fusedActivationFunction=self.activation())
        return y

    def add(self, x: int) -> int | None:
        other = self.alike(x)
        if other is None:
            return None
        y = self.file.map(self.file.shape(x), *self.quantum())
        pair = [x, other] if self.rng.random() < 0.5 else [other, x]
        kind, options = BINARY[int(self.rng.choice([0, 0, 0, 1, 2]))]
        self.file.op(kind, pair, [y], options, fusedActivationFunction=self.activation())
        return y

    def concat(self, x: int) -> int | None:
        """Two maps that a convolution each makes with the same scale."""
        scale, zero = self.quantum()
        parts = []
        for _ in range(2):
            channels, outs = self.file.shape(x)[3], int(self.rng.integers(1, 7))
            weights, bias = self.weights((outs, 3, 3, channels), 0, x, (scale, zero))
            parts.append(self.file.map([*self.file.shape(x)[:3], outs], scale, zero))
            self.file.op("CONV_2D", [x, weights, bias], [parts[-1]], "Conv2DOptions", padding=0, strideH=1, strideW=1,
                         dilationHFactor=1, dilationWFactor=1, fusedActivationFunction=0)
        y = self.file.map([*self.file.shape(x)[:3], sum(self.file.shape(p)[3] for p in parts)], scale, zero)
        self.file.op("CONCATENATION", parts, [y], "ConcatenationOptions", axis=int(self.rng.choice([3, -1])),
                     fusedActivationFunction=0)
        return y

    def unary(self, x: int) -> int:
        """A function of one value, its output's scale as the function needs it."""
        kind = str(self.rng.choice(list(UNARY)))
        scale, zero = self.file.quantum(x)
        quantum = {"LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0), "RELU6": (scale, zero),
                   "HARD_SWISH": (scale * float(self.rng.uniform(0.3, 1.5)), int(self.rng.integers(-128, 128)))}
        return add_unary(self.file, x, kind, quantum.get(kind, self.quantum()))

    def pad(self, x: int) -> int | None:
        _, height, width, channels = self.file.shape(x)
        widths = np.zeros((4, 2), np.int32)
        widths[1:3] = self.rng.integers(0, 3, (2, 2))
        scale, zero = self.file.quantum(x)
        size = (1, height + int(widths[1].sum()), width + int(widths[2].sum()), channels)
        y = self.file.map(size, scale, zero)
        self.file.op("PAD", [x, self.file.stored(widths)], [y], "PadOptions")
        return y

    def tail(self, x: int) -> int:
        """Mean or nothing, dense, softmax or nothing."""
        rng, file = self.rng, self.file
        if rng.random() < 0.6:
            quantum = file.quantum(x) if rng.random() < 0.5 else self.quantum()
            y = file.map((1, file.shape(x)[3]), *quantum)
            file.op("MEAN", [x, file.stored(np.array([1, 2], np.int32))], [y], "ReducerOptions", keepDims=False)
            x = y
        else:
            size = int(np.prod(file.shape(x)))
            y = file.map((1, size), *file.quantum(x))
            shape = file.stored(np.array([1, size], np.int32))
            file.op("RESHAPE", [x, shape], [y], "ReshapeOptions", newShape=[1, size])
            x = y
        size, outs, out = file.shape(x)[1], int(rng.integers(1, 12)), self.quantum()
        weights, bias = self.weights((outs, size), 0, x, out)
        if rng.random() < 0.5:
            q = file.tensors[weights].quantization
            q.scale, q.zeroPoint = q.scale[:1], q.zeroPoint[:1]
        y = file.map((1, outs), *out)
        file.op("FULLY_CONNECTED", [x, weights, bias], [y], "FullyConnectedOptions", fusedActivationFunction=self.activation())
        if rng.random() < 0.5:
            z = file.map((1, outs), 1 / 256, -128)
            file.op("SOFTMAX", [y], [z], "SoftmaxOptions", beta=1.0)
            return z
        return y


UNARY = {
    "LOGISTIC": ("", {}), "TANH": ("", {}), "RELU": ("", {}), "RELU6": ("", {}), "HARD_SWISH": ("HardSwishOptions", {}),
    "LEAKY_RELU": ("LeakyReluOptions", {"alpha": 0.1}), "QUANTIZE": ("QuantizeOptions", {}),
}
BINARY = [("ADD", "AddOptions"), ("SUB", "SubOptions"), ("MUL", "MulOptions")]
