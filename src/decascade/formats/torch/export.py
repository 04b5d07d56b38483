"""Exported programs (torch.export, .pt2 files) as pure fx graphs of aten operations over named parameters."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

from decascade.errors import FormatError
from decascade.formats.base import NOTE
from decascade.formats.input_shapes import InputShapes, settled, spread
from decascade.formats.torch.common import WAY_ROUND, InputSpec, Traced, check_finite, dtype_name, load, one_line
from decascade.formats.torch.pure import AliasedError, make_pure
from decascade.formats.torch.shapes import symbolic_shape
from decascade.formats.torch.training import read_as_eval
from decascade.ir.graph import Shape

EXAMPLE_BATCH = 2
"""The batch that an example input is made with: export takes a batch of one for a constant."""


@contextmanager
def quiet() -> Generator[None]:
    """torch.export warns about its own insides; none of it is about the model."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def export_module(module: Any, shapes: Sequence[Shape], dtypes: Sequence[Any] | None = None) -> Any:
    """torch.export of a module in eval mode on examples of these shapes, the batch left free where torch can do that.

    Raises:
        Exception: whatever torch.export raises.
    """
    torch = load()
    examples = tuple(example_input(module, shape, None if dtypes is None else dtypes[i]) for i, shape in enumerate(shapes))
    free = tuple({0: torch.export.Dim.AUTO} if isinstance(shape[0], str) else {} for shape in shapes)
    # a failing export prints its half-made graph
    with quiet(), redirect_stderr(StringIO()), torch.no_grad():
        return torch.export.export(module, examples, dynamic_shapes=free, strict=False)


def example_input(module: Any, shape: Shape, dtype: Any = None) -> Any:
    """An example of a shape, on the device and in the element type of the module's weights."""
    torch = load()
    first = next(iter(module.parameters()), None)
    device = first.device if first is not None else "cpu"
    floating = first.dtype if first is not None and first.is_floating_point() else torch.float32
    size = [EXAMPLE_BATCH if isinstance(n, str) else n for n in shape]
    if dtype is not None and not dtype.is_floating_point:
        return torch.zeros(size, dtype=dtype, device=device)
    return torch.randn(size, device=device).to(dtype or floating)


def trace_program(program: Any) -> Traced:
    """An exported program as a pure fx graph.

    Raises:
        FormatError: parameters that are not finite, inputs that are no plain tensors, effects that have no pure form.
    """
    notes: list[str] = []
    module = _unlifted(program)
    check_finite({**dict(module.named_parameters()), **dict(module.named_buffers())})
    if read_as_eval(module):
        notes.append("the program was exported in training mode; it was read as in eval mode (dropout off, stored statistics)")
    try:
        make_pure(module, module)
    except AliasedError:
        module = _unlifted(program.run_decompositions({}))  # only makes it functional
        read_as_eval(module)
        make_pure(module, module)
    symbols = dict[str, str]()
    inputs = tuple(_inputs(module, symbols))
    return Traced(module, module, inputs, exported=True, notes=notes, symbols=symbols)


def trace_sized(program: Any, traced: Traced, input_shape: InputShapes) -> Traced:
    """A program whose sizes are those that the user gave where it leaves them open.

    Raises:
        FormatError: sizes that are not the program's, that it cannot take, or some but the batch that stay open.
    """
    names = [spec.name for spec in traced.inputs]
    shapes = [spec.shape if given is None else settled(spec.name, spec.shape, given)
              for spec, given in zip(traced.inputs, spread(names, input_shape), strict=True)]
    if shapes == [spec.shape for spec in traced.inputs]:
        return traced
    known = [shape for shape in shapes if shape is not None and all(isinstance(n, int) for n in shape[1:])]
    if len(known) < len(shapes):
        raise FormatError("an exported program is exported again with the sizes given: give every size but the batch")
    dtypes = [getattr(load(), spec.dtype) for spec in traced.inputs]
    try:
        again = export_module(callable_program(program), known, dtypes)
    except FormatError:
        raise
    except Exception as error:
        told = " and ".join(f"({', '.join(map(str, shape))})" for shape in known)
        raise FormatError(f"the exported program takes no input of shape {told} ({one_line(error)})") from None
    found = trace_program(again)
    found.notes[:0] = [note for note in traced.notes if note not in found.notes]
    return found


def unlift(program: Any) -> Any:
    """The program as a callable module.

    Raises:
        FormatError: torch cannot make one.
    """
    with quiet():
        try:
            try:
                return program.module(check_guards=False)
            except TypeError:  # before torch 2.9 there are no guards
                return program.module()
        except Exception as error:
            raise FormatError(f"torch cannot make a module of this exported program ({one_line(error)}): {WAY_ROUND}") from None


def callable_program(program: Any) -> Any:
    """The program as a callable module in eval mode, as `trace_program` reads it.

    Raises:
        FormatError: torch cannot make one, or it was decomposed in training mode.
    """
    module = unlift(program)
    read_as_eval(module)
    return module


def _unlifted(program: Any) -> Any:
    """The program as a graph module with its parameters as attributes.  Its guards are code in strings: never made."""
    torch = load()
    module = unlift(program)
    plain = torch.fx.GraphModule(module, torch.fx.Graph())
    plain.__dict__.pop("_out_spec", None)
    graph = torch.fx.Graph()
    mapping: dict[Any, Any] = {}
    result = graph.graph_copy(module.graph, mapping)
    for target in {node.target for node in module.graph.nodes if node.op == "get_attr"}:
        _adopt(plain, module, target)
    spec = module.graph._codegen.pytree_info.out_spec
    graph.output(torch.utils._pytree.tree_unflatten(list(result), spec))
    plain.graph = graph
    _check_inputs(module)
    return plain


def _adopt(target: Any, source: Any, path: str) -> None:
    torch = load()
    *parents, leaf = path.split(".")
    for name in parents:
        source = getattr(source, name)
        if name not in target._modules:
            target.add_module(name, torch.nn.Module())
        target = target._modules[name]
    value = getattr(source, leaf)
    if isinstance(value, torch.nn.Parameter):
        target.register_parameter(leaf, value)
    elif isinstance(value, torch.Tensor):
        target.register_buffer(leaf, value, persistent=leaf not in source._non_persistent_buffers_set)
    else:
        setattr(target, leaf, value)


def _check_inputs(module: Any) -> None:
    info = module.graph._codegen.pytree_info
    names = [node.target for node in module.graph.nodes if node.op == "placeholder"]
    if list(info.orig_args) != ["self", *names] and list(info.orig_args) != names:
        told = f"the exported program takes nested inputs ({', '.join(names)})"
        raise FormatError(f"{told}: export a module that takes plain tensors, {WAY_ROUND}")


def _inputs(module: Any, symbols: dict[str, str]) -> Iterator[InputSpec]:
    """The inputs; the first free batch is called N."""
    torch = load()
    for node in module.graph.nodes:
        if node.op != "placeholder":
            continue
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            told = f"input {node.target} of the exported program is no tensor"
            raise FormatError(f"{told}: export it with tensors alone, {WAY_ROUND}")
        shape = symbolic_shape(value, symbols)
        if shape and isinstance(shape[0], str) and not symbols:
            symbols[shape[0]] = "N"
        yield InputSpec(node.target, symbolic_shape(value, symbols), dtype_name(value.dtype))


def save_program(program: Any, path: Any, note: str = "") -> None:
    """torch.export.save to exactly this path, with decascade's text as an extra file where there is one.

    PyTorch's archive writer aborts the process when a disk fills up under it: the file is made in memory, then written
    like any other.

    Raises:
        FormatError: torch cannot store the program.
    """
    buffer = BytesIO()
    with quiet():
        try:
            load().export.save(program, buffer, extra_files={f"{NOTE}.json": note} if note else None)
        except Exception as error:
            raise FormatError(f"torch.export.save cannot store this model ({one_line(error)}): {WAY_ROUND}") from None
    Path(path).write_bytes(buffer.getbuffer())
