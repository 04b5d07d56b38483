"""Shapes that torch itself knows: of an exported program's tensors, and of any call by running it on shapes alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from decascade.formats.torch_common import InputSpec, dtype_name, load
from decascade.ir.graph import Shape


def exported_tensor(node: Any, symbols: Mapping[str, str]) -> tuple[Shape | None, str | None]:
    """Shape and element type that torch.export noted on a node; symbols keep their names but for those in `symbols`."""
    value = node.meta.get("val")
    if not isinstance(value, load().Tensor):
        return None, None
    return symbolic_shape(value, symbols), dtype_name(value.dtype)


def symbolic_shape(value: Any, symbols: Mapping[str, str]) -> Shape:
    """The shape of a fake tensor; a symbolic size by its name, a composed one is not known ("?")."""
    sizes = list[int | str]()
    for size in value.shape:
        if isinstance(size, int):
            sizes.append(int(size))
        else:
            text = str(size)
            sizes.append(symbols.get(text, text) if text.isidentifier() else "?")
    return tuple(sizes)


def fake_shapes(module: Any, given: Mapping[str, Shape | None], inputs: Sequence[InputSpec]) -> dict[Any, Shape]:
    """The shape of every tensor of an fx graph for inputs whose sizes are known but for the batch.

    Found by running the graph on fake tensors with two batch sizes: what changes with the batch is the batch.
    Empty where a size of an input is not known, or torch cannot run the model that way.
    """
    shapes = [given[spec.name] for spec in inputs]
    if any(shape is None or not all(isinstance(size, int) for size in shape[1:]) for shape in shapes):
        return {}
    try:
        three, five = (_propagate(module, [shape for shape in shapes if shape is not None], inputs, n) for n in (3, 5))
    except Exception:  # a model that cannot run on shapes alone: nothing is known then
        return {}
    found = dict[Any, Shape]()
    for node, shape in three.items():
        other = five.get(node, ())
        if len(other) == len(shape):
            pairs = zip(shape, other, strict=True)
            found[node] = tuple(m if m == n else "N" if (m, n) == (3, 5) else "?" for m, n in pairs)
    return found


def _propagate(module: Any, shapes: Sequence[Shape], inputs: Sequence[InputSpec], batch: int) -> dict[Any, tuple[int, ...]]:
    torch = load()
    from importlib import import_module

    mode: Any = import_module("torch._subclasses.fake_tensor").FakeTensorMode(allow_non_fake_inputs=True)
    found = dict[Any, tuple[int, ...]]()

    class Recorder(torch.fx.Interpreter):  # type: ignore[misc, name-defined]
        def run_node(self, n: Any) -> Any:
            result = super().run_node(n)
            if isinstance(result, torch.Tensor):
                found[n] = tuple(int(size) for size in result.shape)
            return result

    with mode, torch.no_grad():
        examples = [
            torch.empty([batch, *shape[1:]], dtype=getattr(torch, spec.dtype)) for shape, spec in zip(shapes, inputs, strict=True)
        ]
        Recorder(module).run(*examples)
    return found
