"""A module and its fx graph under construction: named parts are added, calls of them are placed."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Pads
from decascade.formats.torch.common import load
from decascade.ir.names import Names


@dataclass(eq=False)
class Builder:
    """A module and its fx graph under construction; the other fields are what new parts are given."""

    root: Any
    graph: Any
    device: Any
    training: bool
    trainable: bool = True
    own: Collection[str] = ()
    """Paths of modules that the user's model has: a new one of that name takes its place, if that is free."""

    def name(self, wanted: str) -> str:
        """An attribute name for a new part: letters, digits and underscores, not in use."""
        base = re.sub(r"\W+", "_", wanted).strip("_") or "merged"
        base = f"_{base}" if base[0].isdigit() else base
        there = {path.partition(".")[0] for path in self.own}
        return Names({*_attributes(), *dir(self.root), *there}).fresh(base)

    def module(self, wanted: str, module: Any, x: Any) -> Any:
        """Add a submodule and a call of it."""
        name = wanted if wanted in self.own and self._free(wanted) else self.name(wanted)
        *parents, leaf = name.split(".")
        holder = self.root
        for parent in parents:
            if parent not in holder._modules:
                holder.add_module(parent, load().nn.Module().train(self.training))
            holder = holder._modules[parent]
        holder.add_module(leaf, module.train(self.training).requires_grad_(self.trainable))
        return self.graph.create_node("call_module", name, (x,), {}, name=re.sub(r"\W+", "_", name))

    def _free(self, path: str) -> bool:
        """Whether a module can be put there: its place is empty, all before it are modules, and fx has not the name."""
        first, *rest = path.split(".")
        if first in _attributes():
            return False
        holder = self.root
        for name in (first, *rest):
            if not hasattr(holder, name):
                return True
            holder = holder._modules.get(name)
            if holder is None:
                return False
        return False

    def parameter(self, wanted: str, values: NDArray[Any], dtype: Any) -> Any:
        """Add a parameter and a read of it."""
        name = self.name(wanted)
        self.root.register_parameter(name, load().nn.Parameter(self.tensor(values, dtype), self.trainable))
        return self.graph.create_node("get_attr", name, (), {}, name=name)

    def buffer(self, wanted: str, values: NDArray[Any], dtype: Any) -> Any:
        """Add a constant that is no parameter and a read of it."""
        name = self.name(wanted)
        self.root.register_buffer(name, self.tensor(values, dtype))
        return self.graph.create_node("get_attr", name, (), {}, name=name)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A function call."""
        return self.graph.call_function(function, args, kwargs)

    def tensor(self, values: NDArray[Any], dtype: Any) -> Any:
        """A copy of an array as a tensor."""
        return load().tensor(np.ascontiguousarray(values), dtype=dtype, device=self.device)


@cache
def _attributes() -> frozenset[str]:
    """What a GraphModule has already, before any part is added."""
    torch = load()
    return frozenset(dir(torch.fx.GraphModule(torch.nn.Module(), torch.fx.Graph())))


def pad(builder: Builder, x: Any, pads: Pads, value: float = 0.0, channels: tuple[int, int] = (0, 0)) -> Any:
    """torch.nn.functional.pad, which counts the axes from the last; negative numbers crop."""
    lead = (channels,) if any(channels) else ()
    amounts = [amount for lo_hi in reversed((*lead, *pads)) for amount in lo_hi]
    return builder.call(load().nn.functional.pad, x, amounts, value=value) if any(amounts) else x
