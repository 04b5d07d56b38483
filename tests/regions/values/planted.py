"""Random networks with planted values: zero filters, unread and repeated channels, rings of zeros, identities, idle ReLUs."""

from __future__ import annotations

import numpy as np

from decascade.algebra.conv import Conv
from decascade.ir.graph import Graph
from decascade.ir.ops import Activation, Add, Affine, Concat, Dense, Flatten, GlobalPool, Pool, Product, Select
from laws import Net

KINDS = ("relu", "clip", "leaky_relu", "sigmoid", "tanh")


class Planter:
    """Grows one network; `planted` names what was put in."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.net = Net((int(self.rng.integers(1, 5)), *self.rng.integers(4, 8, 2).tolist()), "float64")
        self.net.rng = self.rng
        self.planted = set[str]()

    def graph(self) -> Graph:
        """Some blocks, one after the other, and perhaps a dense tail."""
        x = "x"
        for _ in range(int(self.rng.integers(2, 6))):
            x = self.rng.choice([self.layer, self.layer, self.depthwise, self.skip, self.branches, self.gate])(x)
        if self.rng.random() < 0.4:
            x = self.net.emit(self.rng.choice([Flatten(), Flatten("channels_last"), GlobalPool("avg", False)]), x)
            x = self.net.emit(Dense(self.spoilt(self.net.channels(x), int(self.rng.integers(1, 6)), (), 1)), x)
        return self.net.graph(x)

    def spoilt(self, source: int, out: int, kernel: tuple[int, ...], pad: int, stride: int = 1, groups: int = 1) -> Conv:
        """A random layer, some of whose weights say more than their shape."""
        rng, weight = self.rng, self.net.weights(out, source // groups, *kernel)
        bias = self.net.vector(out)
        for plant in rng.choice(["zero", "twin", "unread", "ring", "block", "identity", "none", "none"], 2, replace=False):
            some = rng.random(out) < 0.4
            if plant == "zero":
                weight[some] = 0
            elif plant == "twin" and out > 1:
                factor = rng.choice([1.0, 2.0, 0.7])
                weight[-1], bias[-1] = factor * weight[0], factor * bias[0]
            elif plant == "unread":
                weight[:, rng.random(source // groups) < 0.4] = 0
            elif plant == "ring" and kernel and kernel[0] > 1:
                weight[(slice(None), slice(None), *([0, -1][int(rng.integers(2))],))] = 0
            elif plant == "block" and groups == 1 and source % 2 == 0 and out % 2 == 0:
                weight[: out // 2, source // 2 :] = 0
                weight[out // 2 :, : source // 2] = 0
            elif plant == "identity" and groups == 1 and source == out and kernel:
                weight[:], bias[:] = 0, 0
                weight[(np.arange(out), np.arange(out), *(k // 2 for k in kernel))] = 1
            self.planted.add(str(plant))
        used = None if rng.random() < 0.3 else bias
        return Conv(weight, used, *(() if not kernel else (stride, 1, pad, groups)))

    def active(self, x: str) -> str:
        kind = str(self.rng.choice(KINDS))
        params = {"clip": (0.0, 6.0), "leaky_relu": (0.1,)}.get(kind, ())
        return self.net.emit(Activation(kind, params), x) if self.rng.random() < 0.8 else x

    def layer(self, x: str) -> str:
        k, out = int(self.rng.choice([1, 3])), int(self.rng.integers(1, 9))
        conv = self.spoilt(self.net.channels(x), out, (k, k), int(self.rng.integers(0, 2)) * (k // 2))
        if min(self.net.graph(x).spatial(x) or (1,)) < k:
            return x
        x = self.net.emit(conv, x)
        if self.rng.random() < 0.3:
            scale = self.net.vector(out)
            scale[self.rng.random(out) < 0.3] = 0
            x = self.net.emit(Affine(scale, self.net.vector(out)), x)
        return self.active(x)

    def depthwise(self, x: str) -> str:
        channels = self.net.channels(x)
        return self.active(self.net.emit(self.spoilt(channels, channels, (3, 3), 1, groups=channels), x))

    def skip(self, x: str) -> str:
        channels = self.net.channels(x)
        y = self.active(self.net.emit(self.spoilt(channels, channels, (3, 3), 1), x))
        return self.active(self.net.emit(Add((1, int(self.rng.choice([1, -1])))), x, y))

    def branches(self, x: str) -> str:
        parts = [self.active(self.net.emit(self.spoilt(self.net.channels(x), int(self.rng.integers(1, 5)), (1, 1), 0), x))
                 for _ in range(2)]
        x = self.net.emit(Concat(1), *parts)
        return self.net.emit(Select(self.rng.permutation(self.net.channels(x))[: int(self.rng.integers(1, 9))]), x)

    def gate(self, x: str) -> str:
        channels = self.net.channels(x)
        pool = self.net.emit(Pool("max", (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)), x)
        gate = self.net.emit(Activation("sigmoid"), self.net.emit(self.spoilt(channels, channels, (1, 1), 0), pool))
        return self.net.emit(Product(), x, gate)
