"""Small networks of which it is known what can be proved, written by each framework itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FORMATS = (".onnx", ".keras", ".h5", ".pt2")
Step = tuple[Any, ...]


def weights(out: int, channels: int, seed: int, kernel: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(out, channels, kernel, kernel)) / kernel).astype(np.float32)


def preprocessed() -> tuple[tuple[int, ...], list[Step]]:
    """x in [0, 255] → x/255 → (x − 1/2)/(1/4) in [−2, 2] → a layer whose bias just outweighs that → ReLU → a layer."""
    w = weights(12, 2, 0)
    bias = 2.0005 * np.abs(w).sum(axis=(1, 2, 3))
    steps: list[Step] = [("scale", 1 / 255, 0.0), ("normal", 0.5, 0.25), ("conv", w, bias), ("relu",)]
    return (2, 8, 9), [*steps, ("conv", weights(3, 12, 1), None)]


def one_negative() -> tuple[tuple[int, ...], list[Step]]:
    """Channel 0 counts negatively, by at most 1 for each 0.5 of it."""
    w = np.abs(weights(12, 2, 2))
    w[:, 0] *= -1
    bias = 0.51 * np.abs(w[:, 0]).sum(axis=(1, 2))
    return (2, 8, 9), [("conv", w, bias), ("relu",), ("conv", weights(3, 12, 3), None)]


def seed_case() -> tuple[tuple[int, ...], list[Step]]:
    """The project's first question: a non-negative layer, then any, both with ReLU and zero padding."""
    w = np.abs(weights(12, 2, 4))
    return (2, 10, 11), [("conv", w, np.full(12, 0.05)), ("relu",), ("conv", weights(3, 12, 5), None), ("relu",)]


def half_stable() -> tuple[tuple[int, ...], list[Step]]:
    """Channels 0 to 3 of the first layer are active on [0, 1], 4 to 7 dead, the rest neither."""
    w = weights(12, 2, 6)
    w[:4], w[4:8] = np.abs(w[:4]), -np.abs(w[4:8])
    bias = np.concatenate([np.full(4, 0.1), np.full(4, -0.1), np.zeros(4)])
    return (2, 8, 8), [("conv", w, bias), ("relu",), ("conv", weights(3, 12, 7), None), ("relu",)]


NETWORKS = {f.__name__: f for f in (preprocessed, one_negative, seed_case, half_stable)}


def saved(name: str, extension: str, folder: Path) -> Path:
    """The network as a file; the test is skipped where the framework is not installed."""
    path = folder / f"{name}{extension}"
    shape, steps = NETWORKS[name]()
    writer = {".onnx": _onnx, ".keras": _keras, ".h5": _keras, ".pt2": _torch}[extension]
    writer(path, shape, steps)
    return path


def live_keras(shape: Sequence[int], steps: Sequence[Step]) -> Any:
    keras: Any = pytest.importorskip("keras")
    layers = [keras.Input((*shape[1:], shape[0]), name="image")]
    for i, (kind, *given) in enumerate(steps):
        match kind:
            case "scale":
                layers.append(keras.layers.Rescaling(given[0], given[1], name=f"scale_{i}"))
            case "normal":
                mean, deviation = ([value] * shape[0] for value in given)
                layers.append(keras.layers.Normalization(mean=mean, variance=np.square(deviation), name=f"normal_{i}"))
            case "conv":
                w, bias = given
                conv = keras.layers.Conv2D(len(w), w.shape[2:], padding="same", use_bias=bias is not None, name=f"conv_{i}")
                conv.build((None, *shape[1:], w.shape[1]))
                conv.set_weights([w.transpose(2, 3, 1, 0), *([] if bias is None else [bias])])
                layers.append(conv)
            case _:
                layers.append(keras.layers.ReLU(name=f"relu_{i}"))
    return keras.Sequential(layers)


def _keras(path: Path, shape: Sequence[int], steps: Sequence[Step]) -> None:
    keras: Any = pytest.importorskip("keras")
    import logging

    logging.getLogger("absl").setLevel(logging.ERROR)
    keras.saving.save_model(live_keras(shape, steps), path)


def live_torch(shape: Sequence[int], steps: Sequence[Step]) -> Any:
    torch: Any = pytest.importorskip("torch")

    class Scaled(torch.nn.Module):
        def __init__(self, scale: float, shift: float) -> None:
            super().__init__()
            self.scale, self.shift = scale, shift

        def forward(self, x: Any) -> Any:
            return x * self.scale + self.shift

    class Normal(torch.nn.Module):
        def __init__(self, mean: float, deviation: float) -> None:
            super().__init__()
            self.register_buffer("mean", torch.full((1, shape[0], 1, 1), mean))
            self.register_buffer("deviation", torch.full((1, shape[0], 1, 1), deviation))

        def forward(self, x: Any) -> Any:
            return (x - self.mean) / self.deviation

    layers = []
    for kind, *given in steps:
        match kind:
            case "scale":
                layers.append(Scaled(*given))
            case "normal":
                layers.append(Normal(*given))
            case "conv":
                w, bias = given
                conv = torch.nn.Conv2d(w.shape[1], len(w), w.shape[2:], padding=w.shape[2] // 2, bias=bias is not None)
                conv.weight.data = torch.tensor(w)
                if bias is not None:
                    conv.bias.data = torch.tensor(bias, dtype=torch.float32)
                layers.append(conv)
            case _:
                layers.append(torch.nn.ReLU())
    return torch.nn.Sequential(*layers).eval()


def _torch(path: Path, shape: Sequence[int], steps: Sequence[Step]) -> None:
    torch: Any = pytest.importorskip("torch")
    example = torch.zeros(2, *shape)
    dim = {0: torch.export.Dim.AUTO}
    torch.export.save(torch.export.export(live_torch(shape, steps), (example,), dynamic_shapes=(dim,)), path)


def _onnx(path: Path, shape: Sequence[int], steps: Sequence[Step]) -> None:
    onnx: Any = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    nodes, constants, at = [], [], "image"

    def constant(name: str, values: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    for i, (kind, *given) in enumerate(steps):
        out = f"t{i}"
        match kind:
            case "scale":
                nodes.append(helper.make_node("Mul", [at, constant(f"scale_{i}", given[0])], [f"{out}m"], name=f"mul_{i}"))
                nodes.append(helper.make_node("Add", [f"{out}m", constant(f"shift_{i}", given[1])], [out], name=f"add_{i}"))
            case "normal":
                mean, deviation = (np.full((1, shape[0], 1, 1), value) for value in given)
                nodes.append(helper.make_node("Sub", [at, constant(f"mean_{i}", mean)], [f"{out}m"], name=f"sub_{i}"))
                nodes.append(helper.make_node("Div", [f"{out}m", constant(f"std_{i}", deviation)], [out], name=f"div_{i}"))
            case "conv":
                w, bias = given
                reads = [at, constant(f"w_{i}", w), *([] if bias is None else [constant(f"b_{i}", bias)])]
                nodes.append(helper.make_node("Conv", reads, [out], name=f"conv_{i}", pads=[w.shape[2] // 2] * 4))
            case _:
                nodes.append(helper.make_node("Relu", [at], [out], name=f"relu_{i}"))
        at = out
    image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["N", *shape])
    channels = [len(step[1]) for step in steps if step[0] == "conv"][-1]
    result = helper.make_tensor_value_info(at, onnx.TensorProto.FLOAT, ["N", channels, *shape[1:]])
    graph = helper.make_graph(nodes, "net", [image], [result], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
