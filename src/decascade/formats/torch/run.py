"""Running PyTorch models on NumPy arrays, and storing them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.errors import FormatError, UsageError
from decascade.formats.base import Arrays
from decascade.formats.torch.common import META, floating_dtype, in_eval, load, note_of, to_numpy
from decascade.formats.torch.export import callable_program, export_module, quiet, save_program
from decascade.formats.torch.names import output_names


def run_module(native: Any, inputs: Arrays) -> dict[str, NDArray[Any]]:
    """The outputs of a module or exported program in eval mode, without gradients, by position.

    Floating inputs are converted to the model's element type; outputs of 16 bits come back as float32.

    Raises:
        UsageError: the inputs' names are not the model's.
    """
    torch = load()
    module = callable_module(native)
    dtype = floating_dtype(module)
    tensors = (*module.parameters(), *module.buffers())
    device = tensors[0].device if tensors else "cpu"
    given = {name: torch.tensor(np.asarray(array)).to(device) for name, array in inputs.items()}
    given = {name: value.to(dtype) if value.is_floating_point() else value for name, value in given.items()}
    exported = isinstance(native, torch.export.ExportedProgram)
    with torch.no_grad(), quiet():
        try:
            result = module(*_in_order(module, given)) if exported else module(**given)
        except (KeyError, TypeError) as error:
            raise UsageError(f"the model cannot be called with {', '.join(given)}: {error}") from None
    leaves = torch.utils._pytree.tree_leaves(result)
    found = dict[str, NDArray[Any]]()
    for name, leaf in zip(output_names(len(leaves)), leaves, strict=True):
        if isinstance(leaf, torch.Tensor):
            array = to_numpy(leaf)
            found[name] = array.astype(np.float32) if array.dtype == np.float16 else array
    return found


def _in_order(module: Any, given: dict[str, Any]) -> list[Any]:
    """An exported program takes its inputs by position."""
    return [given[node.target] for node in module.graph.nodes if node.op == "placeholder"]


def callable_module(native: Any) -> Any:
    """The module to call: in eval mode, sharing all tensors with the given one."""
    torch = load()
    if isinstance(native, torch.export.ExportedProgram):
        return callable_program(native)
    return in_eval(native)


def save_module(native: Any, path: Path) -> None:
    """Store a module as an exported program; the batch stays free where torch.export can leave it free.

    Raises:
        FormatError: the input's shape is not known, or torch cannot export the model.
        OutputError: the file cannot be written.
    """
    torch = load()
    if isinstance(native, torch.export.ExportedProgram):
        save_program(native, path, note_of(native))
        return
    known = getattr(native, "meta", {}).get(META) if isinstance(native, torch.fx.GraphModule) else None
    if known is None:
        raise FormatError("only a model that decascade wrote knows its input shapes: store any other with torch.export.save")
    for name, (shape, _) in known.items():
        if shape is None or not all(isinstance(size, int) for size in shape[1:]):
            told = "unknown" if shape is None else f"({', '.join(map(str, shape))})"
            needs = f"a .pt2 file needs the size of input {name}, which is {told}"
            raise FormatError(f"{needs}: read the model with an input shape")
    dtypes = [getattr(torch, dtype) for _, dtype in known.values()]
    try:
        program = export_module(in_eval(native), [shape for shape, _ in known.values()], dtypes)
    except Exception as error:
        raise FormatError(f"torch.export cannot export this model: {str(error).strip().splitlines()[0]}") from None
    save_program(program, path, note_of(native))
