"""What new Keras layers are made with: calls, names, layouts, padding."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from decascade.algebra.conv import Pads
from decascade.formats.keras.base import AnyArray, Layout, channel_axis, keras, to_native
from decascade.ir.names import Names


class Recorder(Protocol):
    """Where the calls of new layers are made and remembered."""

    names: set[str]
    promised: set[str]
    """Names of the model's outputs, for the layers that make them."""

    def call(self, layer: Any, *args: Any, **kwargs: Any) -> Any: ...


@dataclass(eq=False)
class Emitter:
    """Makes the layers of one node.  `name`: what the last of them shall be called."""

    level: Recorder
    layout: Layout
    dtype: Any
    name: str
    made: list[str] = field(default_factory=list[str])

    def put(
        self, kind: str, x: Any, weights: Sequence[AnyArray] = (), name: str = "", ordered: bool = False, **options: Any
    ) -> Any:
        """Calls a new layer of this class.  `ordered`: it takes a data_format; `name` marks a helper of the node's."""
        if ordered:
            options = {"data_format": self.layout, **options}
        layer = getattr(keras().layers, kind)(name=self.unique(name), **self.policy(), **options)
        result = self.level.call(layer, x)
        if weights:
            layer.set_weights(list(weights))
        return result

    def policy(self) -> dict[str, Any]:
        return {} if self.dtype is None else {"dtype": self.dtype}

    def unique(self, part: str = "") -> str:
        """A layer name that TensorFlow's name scopes take, not in use in this model."""
        base = re.sub(r"[^A-Za-z0-9_.-]+", "_", f"{self.name}_{part}" if part else self.name).lstrip("_.-") or "layer"
        others = self.level.promised - {self.name} if not part else self.level.promised
        name = Names(self.level.names | others, first=1).fresh(base)
        self.level.names.add(name)
        return name

    def size(self, x: Any) -> tuple[int | None, ...]:
        """The spatial size of a symbolic tensor."""
        shape = tuple(x.shape)
        return shape[1:-1] if self.layout == "channels_last" and len(shape) > 2 else shape[2:]

    def channels(self, x: Any) -> int:
        return int(x.shape[channel_axis(len(x.shape), self.layout)])

    def floating(self, x: Any) -> Any:
        """Pixels may come as integers, which a convolution does not take."""
        return x if "float" in str(x.dtype) else self.put("Rescaling", x, name="cast", scale=1.0)

    def shift(self, x: Any, values: AnyArray, name: str = "") -> Any:
        """x + values, which has no batch axis and is in the graph's layout."""
        native = to_native(values[None], self.layout)[0]
        return self.put("Rescaling", x, name=name, scale=1.0, offset=native.astype(np.float64).tolist())

    def spread(self, values: AnyArray, rank: int) -> list[Any]:
        """Numbers per channel as a nested list that broadcasts against a tensor of this rank."""
        shape = [1] * max(rank - 1, 3 if rank > 2 else 1)
        shape[channel_axis(rank, self.layout) - rank] = -1
        return values.astype(np.float64).reshape(shape).tolist()

    def zeros(self, x: Any, pads: Pads, name: str) -> Any:
        """Crops, then pads with zeros."""
        rank = len(pads)
        ordered = rank > 1
        crops = [(max(-lo, 0), max(-hi, 0)) for lo, hi in pads]
        frame = [(max(lo, 0), max(hi, 0)) for lo, hi in pads]
        if rank == 1 and self.layout == "channels_first":
            # the 1-D layers know channels-last alone
            return _along_one_axis(self, x, crops[0], frame[0], name)
        helper = name if any(lo or hi for lo, hi in frame) else ""
        if any(lo or hi for lo, hi in crops):
            last = name if not any(lo or hi for lo, hi in frame) else f"{name}_crop" if name else "crop"
            x = self.put(f"Cropping{rank}D", x, name=last, cropping=crops[0] if rank == 1 else crops, ordered=ordered)
        if any(lo or hi for lo, hi in frame):
            x = self.put(f"ZeroPadding{rank}D", x, name=helper, padding=frame[0] if rank == 1 else frame, ordered=ordered)
        return x


def _along_one_axis(to: Emitter, x: Any, crop: tuple[int, int], frame: tuple[int, int], name: str) -> Any:
    """1-D cropping and padding of a channels-first map."""

    def sides(y: Any) -> Any:
        if any(crop):
            y = to.put("Cropping2D", y, name="crop", cropping=((0, 0), crop), ordered=True)
        return to.put("ZeroPadding2D", y, name="zeros", padding=((0, 0), frame), ordered=True) if any(frame) else y

    return as_width(to, x, name, sides)


def as_width(to: Emitter, x: Any, name: str, change: Callable[[Any], Any]) -> Any:
    """A 1-D channels-first map as the width of a 2-D one of height 1: some 1-D layers know channels-last alone."""
    channels, length = to.channels(x), x.shape[2]
    y = change(to.put("Reshape", x, name="view", target_shape=(channels, 1, -1 if length is None else length)))
    length = y.shape[3]
    return to.put("Reshape", y, name=name, target_shape=(channels, -1 if length is None else length))
