"""Published networks with the units of their inputs: where grey is, what a step of one pixel is.

Graphs are channels-first; `../shared/models` and its INDEX.md say how each network wants its pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from decascade.formats.registry import format_of
from decascade.ir.graph import Graph
from support.setup import DATA, MODELS

F64 = NDArray[np.float64]
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
PIXELS, UNIT = (np.zeros(1), np.full(1, 1 / 255)), (np.zeros(1), np.ones(1))
IMAGENET = (MEAN, STD)


@dataclass(frozen=True)
class Published:
    """A network's file; (mean, scale): it is given (p − mean)/scale of pixels p in [0, 1]; the file of its pictures."""

    name: str
    file: str
    units: tuple[F64, F64]
    pictures: str

    def there(self) -> bool:
        return (MODELS / self.file).exists()

    def graph(self) -> Graph:
        path = MODELS / self.file
        if path.suffix == ".th":
            from decascade.formats.torch.format import read

            return cast(Graph, read(plain_resnet20(path), (1, 3, 32, 32)).graph)
        return cast(Graph, format_of(path).read(path).graph)

    def given(self, pixels: F64) -> F64:
        """Pixels in [0, 1], their channels last, as the network wants them."""
        mean, scale = self.units
        return (pixels - mean) / scale

    def box(self, lo: float, hi: float) -> tuple[F64, F64]:
        """Lowest and highest value per channel for pixels in [lo, hi]."""
        return self.given(np.full(1, lo)), self.given(np.full(1, hi))

    def images(self, count: int) -> NDArray[np.float32]:
        """Real pictures (N, C, H, W) in the network's units."""
        with np.load(DATA / self.pictures) as file:
            x = file["x"][:count].astype(np.float64) / 255
        return np.moveaxis(self.given(x if x.ndim == 4 else x[..., None]), -1, 1).astype(np.float32)


CIFAR, MNIST = "cifar10_test_first500.npz", "mnist_test.npz"
NETWORKS = (
    Published("MLPerf Tiny ResNet-8", "mlperf_tiny_resnet8_cifar10.h5", PIXELS, CIFAR),
    Published("TinyMaix MNIST, same", "tinymaix_mnist_same.h5", UNIT, MNIST),
    Published("TinyMaix MNIST, valid", "tinymaix_mnist_valid.h5", UNIT, MNIST),
    Published("Layer-Folding ResNet-20", "layerfolding_resnet20.onnx", IMAGENET, CIFAR),
    Published("akamaster ResNet-20", "akamaster_resnet20_cifar10_state_dict.th", IMAGENET, CIFAR),
)
BOXES: dict[str, tuple[float, float]] = {
    "full range": (0.0, 1.0),
    "mid-grey ± 0.1": (0.4, 0.6),
    "mid-grey ± 8/255": (0.5 - 8 / 255, 0.5 + 8 / 255),
}
"""In pixels from 0 to 1."""


def plain_resnet20(path: Any) -> Any:
    """He et al. 2016, §4.2, n = 3; a shortcut that changes size takes every second pixel and pads channels on both sides."""
    import torch
    from torch import nn

    functional: Any = nn.functional

    class Block(nn.Module):
        def __init__(self, inside: int, out: int) -> None:
            super().__init__()
            self.extra, stride = (out - inside) // 2, 1 if inside == out else 2
            self.conv1, self.bn1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
            self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)

        def forward(self, x: Any) -> Any:
            y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
            if self.extra:
                x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra, self.extra))
            return functional.relu(x + y)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
            for i, (inside, out) in enumerate(((16, 16), (16, 32), (32, 64)), start=1):
                setattr(self, f"layer{i}", nn.Sequential(Block(inside, out), Block(out, out), Block(out, out)))
            self.linear = nn.Linear(64, 10)

        def forward(self, x: Any) -> Any:
            y = self.layer3(self.layer2(self.layer1(functional.relu(self.bn1(self.conv1(x))))))
            return self.linear(functional.adaptive_avg_pool2d(y, 1).flatten(1))

    stored = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
    net = Net()
    # written before PyTorch counted batches
    net.load_state_dict({k.removeprefix("module."): v for k, v in stored.items()}, strict=False)
    return net.eval()

