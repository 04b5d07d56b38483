"""Trains the demo's network on scikit-learn's 8×8 handwritten digits and writes digits.onnx and digits.keras beside it.

The network is over-parameterised on purpose, as ExpandNets (Guo et al., 2020) and SESR (Bhardwaj et al., 2022) train
theirs: each convolution is spread over two or three linear ones with a wide middle, which trains better than the
narrow layer that they amount to.  `decascade merge` finds the narrow layers again.

    pip install torch keras tensorflow-cpu onnx scikit-learn
    python examples/train_digits.py
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Layer:
    """One layer: what it does, what it reads ("" for the picture), and its sizes."""

    name: str
    kind: str
    reads: tuple[str, ...]
    inputs: int = 0
    outputs: int = 0
    kernel: int = 1
    bias: bool = True


def conv(name: str, reads: str, inputs: int, outputs: int, kernel: int = 1, bias: bool = True) -> Layer:
    return Layer(name, "conv", (reads,), inputs, outputs, kernel, bias)


NETWORK = (
    # 3×3 expand, 1×1 project (SESR): linear.
    conv("stem_expand", "", 1, 96, 3, bias=False),
    conv("stem_project", "stem_expand", 96, 24),
    Layer("stem_relu", "relu", ("stem_project",)),
    # 1×1, 3×3, 1×1 (ExpandNets) around a linear skip.
    conv("block1_expand", "stem_relu", 24, 72, bias=False),
    conv("block1_conv", "block1_expand", 72, 72, 3),
    conv("block1_project", "block1_conv", 72, 24),
    Layer("block1_add", "add", ("block1_project", "stem_relu")),
    Layer("block1_relu", "relu", ("block1_add",)),
    # 1×1 with a bias in front of a padded 3×3: only the bias depends on the border.
    conv("block2_expand", "block1_relu", 24, 96),
    conv("block2_conv", "block2_expand", 96, 32, 3),
    Layer("block2_relu", "relu", ("block2_conv",)),
    # Average pooling after a 3×3 convolution: one convolution of stride 2.
    conv("block3_conv", "block2_relu", 32, 32, 3),
    Layer("block3_pool", "pool", ("block3_conv",)),
    Layer("block3_relu", "relu", ("block3_pool",)),
    # A bottleneck (MobileNetV2's project and expand): linear as well, but dearer as one layer.
    conv("block4_project", "block3_relu", 32, 8),
    conv("block4_expand", "block4_project", 8, 64),
    Layer("block4_relu", "relu", ("block4_expand",)),
    # Two narrow 3×3 layers: the merged 5×5 would cost more, and its border needs correcting.
    conv("block5_first", "block4_relu", 64, 32, 3),
    conv("block5_second", "block5_first", 32, 48, 3),
    Layer("block5_relu", "relu", ("block5_second",)),
    Layer("mean", "mean", ("block5_relu",)),
    Layer("head_hidden", "dense", ("mean",), 48, 128),
    Layer("head_logits", "dense", ("head_hidden",), 128, 10),
)


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pictures (n, 1, 8, 8) in [0, 1] and labels: training part and test part (a fifth)."""
    data = load_digits()
    x = (data.data.reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    train_x, test_x, train_y, test_y = train_test_split(x, data.target, test_size=0.2, random_state=0, stratify=data.target)
    return train_x, test_x, train_y, test_y


class Digits(torch.nn.Module):
    """NETWORK in PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleDict()
        for layer in NETWORK:
            if layer.kind == "conv":
                sizes = layer.inputs, layer.outputs, layer.kernel
                self.layers[layer.name] = torch.nn.Conv2d(*sizes, padding=layer.kernel // 2, bias=layer.bias)
            elif layer.kind == "dense":
                self.layers[layer.name] = torch.nn.Linear(layer.inputs, layer.outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = {"": x}
        plain = {
            "relu": torch.relu,
            "add": torch.add,
            "pool": lambda v: torch.nn.functional.avg_pool2d(v, 2),
            "mean": lambda v: v.mean((2, 3)),
        }
        for layer in NETWORK:
            step = self.layers[layer.name] if layer.name in self.layers else plain[layer.kind]
            values[layer.name] = step(*(values[name] for name in layer.reads))
        return values[NETWORK[-1].name]

    def weights(self) -> dict[str, list[np.ndarray]]:
        """Kernel and bias of each layer, in PyTorch's layout."""
        return {name: [p.detach().numpy() for p in layer.parameters()] for name, layer in self.layers.items()}


def train(epochs: int = 60, batch: int = 64) -> Digits:
    """AdamW with one cycle; pictures shifted by up to one pixel."""
    torch.manual_seed(0)
    train_x, test_x, train_y, test_y = digits()
    x, y = torch.from_numpy(train_x), torch.from_numpy(train_y)
    model = Digits()
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    steps = -(-len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, epochs=epochs, steps_per_epoch=steps)
    for epoch in range(epochs):
        for rows in torch.randperm(len(x)).split(batch):
            dy, dx = torch.randint(0, 3, (2,)).tolist()
            moved = torch.nn.functional.pad(x[rows], (1, 1, 1, 1))[:, :, dy : dy + 8, dx : dx + 8]
            loss = torch.nn.functional.cross_entropy(model(moved), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        if epoch % 10 == 9:
            with torch.no_grad():
                right = (model(torch.from_numpy(test_x)).argmax(1).numpy() == test_y).mean()
            print(f"epoch {epoch + 1:3d}  loss {loss.item():.4f}  test accuracy {right:.2%}", flush=True)
    return model.eval()


def save_onnx(model: Digits, path: Path) -> None:
    """The network as an ONNX file with a dynamic batch; the tensor that a layer writes has the layer's name."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights, nodes, initializers = model.weights(), [], []
    plain = {"relu": ("Relu", {}), "add": ("Add", {}), "pool": ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]})}
    for layer in NETWORK:
        reads = [name or "image" for name in layer.reads]
        names = [f"{layer.name}.{part}" for part in ("weight", "bias")][: len(weights.get(layer.name, []))]
        initializers += [numpy_helper.from_array(w, n) for w, n in zip(weights.get(layer.name, []), names, strict=True)]
        writes = "logits" if layer is NETWORK[-1] else layer.name
        if layer.kind == "conv":
            pads = [layer.kernel // 2] * 4
            node = helper.make_node("Conv", reads + names, [writes], layer.name, kernel_shape=[layer.kernel] * 2, pads=pads)
        elif layer.kind == "dense":
            node = helper.make_node("Gemm", reads + names, [writes], layer.name, transB=1)
        elif layer.kind == "mean":
            nodes.append(helper.make_node("GlobalAveragePool", reads, ["mean_map"], "mean_map"))
            node = helper.make_node("Flatten", ["mean_map"], [writes], layer.name)
        else:
            kind, attributes = plain[layer.kind]
            node = helper.make_node(kind, reads, [writes], layer.name, **attributes)
        nodes.append(node)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])
    graph = helper.make_graph(nodes, "digits", [image], [logits], initializers)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="train_digits", ir_version=8)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def save_keras(model: Digits, path: Path) -> None:
    """The same network with the same weights as a Keras file, pictures (n, 8, 8, 1)."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras

    layers: Any = keras.layers
    values = {"": keras.Input((8, 8, 1), name="image")}
    make = {
        "conv": lambda v: layers.Conv2D(v.outputs, v.kernel, padding="same", use_bias=v.bias, name=v.name),
        "dense": lambda v: layers.Dense(v.outputs, name=v.name),
        "relu": lambda v: layers.ReLU(name=v.name),
        "add": lambda v: layers.Add(name=v.name),
        "pool": lambda v: layers.AveragePooling2D(2, name=v.name),
        "mean": lambda v: layers.GlobalAveragePooling2D(name=v.name),
    }
    for layer in NETWORK:
        read = [values[name] for name in layer.reads]
        values[layer.name] = make[layer.kind](layer)(read if len(read) > 1 else read[0])
    network = keras.Model(values[""], values[NETWORK[-1].name], name="digits")
    for name, (kernel, *bias) in model.weights().items():
        axes = (2, 3, 1, 0) if kernel.ndim == 4 else (1, 0)
        network.get_layer(name).set_weights([kernel.transpose(axes), *bias])
    network.save(path)


def main() -> None:
    model = train()
    save_onnx(model, HERE / "digits.onnx")
    save_keras(model, HERE / "digits.keras")
    for name in ("digits.onnx", "digits.keras"):
        print(f"{name}: {(HERE / name).stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
