"""A live nn.Module as an fx graph: symbolic tracing that keeps module names, with torch.export as the second way.

What tracing would lose is kept whole instead, with the reason in `Traced.pinned`: a module with forward hooks, and a
module whose code cannot be traced (control flow on values).
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, cast

from decascade.errors import FormatError
from decascade.formats.input_shapes import InputShapes, spread
from decascade.formats.torch.common import (
    FIXED,
    META,
    WAY_ROUND,
    InputSpec,
    Traced,
    check_finite,
    dtype_name,
    eval_copy,
    floating_dtype,
    load,
    one_line,
    place,
)
from decascade.formats.torch.modules import known_base
from decascade.formats.torch.pure import AliasedError, make_pure
from decascade.ir.graph import Shape


def trace_module(model: Any, input_shape: InputShapes | None) -> Traced:
    """The model as a pure fx graph in eval mode.

    Raises:
        FormatError: code that neither torch.fx nor torch.export can follow, hooks on the model itself, TorchScript,
            parameters that are not there (meta device, lazy) or not finite.
    """
    notes: list[str] = []
    model = _unwrapped(model, notes)
    _check_model(model)
    if any(part.training for part in model.modules()):
        notes.append("the model is in training mode; it was read as in eval mode (dropout off, stored batch statistics)")
    for name, part in model.named_modules():
        if _parametrized(part):
            notes.append(f"{name or 'the model'} is parametrized; its effective weight in eval mode was read")
    copy = eval_copy(model)
    input_shape = _only_for(model) if input_shape is None else input_shape
    try:
        traced = _symbolic(model, copy, input_shape)
    except _UntraceableError as error:
        traced = _exported(model, copy, input_shape, error)
    except AliasedError as error:
        traced = _exported(model, copy, input_shape, _UntraceableError(str(error)))
    else:
        traced = _look_inside(model, copy, input_shape, traced)
    traced.notes[:0] = notes
    return traced


def _noted(model: Any) -> dict[str, Shape]:
    """The shapes of inputs that a model carries which decascade wrote."""
    meta = getattr(model, "meta", {})
    return {name: shape for name, (shape, _) in meta.get(META, {}).items() if shape is not None}


def _only_for(model: Any) -> InputShapes | None:
    """The sizes of a model that decascade wrote for these alone."""
    return _noted(model) if getattr(model, "meta", {}).get(FIXED) else None


class _UntraceableError(Exception):
    """Symbolic tracing failed; the message says why and where."""


def _unwrapped(model: Any, notes: list[str]) -> Any:
    torch = load()
    parallel = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
    while isinstance(model, parallel) or type(model).__name__ == "OptimizedModule":
        inner = model.module if isinstance(model, parallel) else model._orig_mod
        notes.append(f"{type(model).__name__} was taken off: the model inside it was read")
        model = inner
    if known_base(model) or (type(model).__module__.startswith("torch.nn.modules") and not isinstance(model, _containers())):
        wrapper = torch.nn.Sequential(model)  # a layer alone: tracing looks into its caller, not into the layer
        wrapper.training = model.training
        return wrapper
    return model


def _containers() -> tuple[Any, ...]:
    nn = load().nn
    return nn.Sequential, nn.ModuleList, nn.ModuleDict


def _check_model(model: Any) -> None:
    torch = load()
    name = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        raise FormatError(f"{name} is TorchScript, which torch.fx cannot read: pass the Python module it was made from")
    hooks = [hook for kind in _HOOKS for hook in getattr(model, kind, {}).values()]
    if hooks:
        listed = ", ".join(getattr(hook, "__name__", type(hook).__name__) for hook in hooks)
        raise FormatError(
            f"{name} itself has forward hooks ({listed}), which tracing would drop: remove them (handle.remove()) "
            "and register them on the result"
        )
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for key, tensor in tensors.items():
        if isinstance(tensor, torch.nn.parameter.UninitializedTensorMixin):
            raise FormatError(f"{key} is a lazy parameter without a shape: run the model once on an example first")
        if tensor.is_meta:
            raise FormatError(f"{key} is on the meta device and has no values: load the weights first")
    check_finite(tensors)


_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def hook_reason(module: Any) -> str:
    """Why a module with forward hooks stays as it is; "" where it has none."""
    found = [hook for kind in _HOOKS for hook in getattr(module, kind, {}).values()]
    listed = ", ".join(getattr(hook, "__name__", type(hook).__name__) for hook in found)
    return f"it has a forward hook ({listed}), which may change anything" if found else ""


def _parametrized(module: Any) -> bool:
    return bool(load().nn.utils.parametrize.is_parametrized(module))


@cache
def _classes() -> tuple[Any, Any]:
    """The tracer and the proxy class; made on first use since their bases are torch's."""
    fx: Any = import_module("torch.fx")
    base_proxy: Any = fx.Proxy
    base_tracer: Any = fx.Tracer

    def inplace(function: Callable[..., Any]) -> Callable[..., Any]:
        def method(self: Any, other: Any) -> Any:
            return self.tracer.create_proxy("call_function", function, (self, other), {})

        return method

    # without these, Python would read `x += y` as `x = x + y` and what else holds x would keep its old value
    names = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "ipow")
    methods = {f"__{name}__": inplace(getattr(operator, name)) for name in names}

    def setitem(self: Any, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    proxy_class: Any = type("InplaceProxy", (base_proxy,), {**methods, "__setitem__": setitem})

    class ModuleTracer(base_tracer):  # type: ignore[misc]
        """fx's tracer; keeps a module whole where it must, and leaves optional arguments at their defaults."""

        proxy_buffer_attributes = True  # else what the code makes of buffers is computed here, and baked in

        def __init__(self) -> None:
            base_tracer.__init__(self)
            self.whole: dict[str, str] = {}
            self.unused: list[str] = []

        def proxy(self, node: Any) -> Any:
            return proxy_class(node, self)

        def is_leaf_module(self, m: Any, module_qualified_name: str) -> bool:
            if reason := hook_reason(m):
                self.whole[module_qualified_name] = reason
                return True
            return bool(known_base(m)) or bool(base_tracer.is_leaf_module(self, m, module_qualified_name))

        def call_module(self, m: Any, forward: Any, args: Any, kwargs: Any) -> Any:
            path = self.path_of_module(m)
            if self.is_leaf_module(m, path):
                return base_tracer.call_module(self, m, forward, args, kwargs)
            stack, mark = dict(self.module_stack), len(self.graph.nodes)
            try:
                return base_tracer.call_module(self, m, forward, args, kwargs)
            except Exception as error:
                self.whole[path] = f"its code cannot be traced: {_reason(error)}"
                self.module_stack.clear()
                self.module_stack.update(stack)
                for node in list(reversed(self.graph.nodes))[: len(self.graph.nodes) - mark]:
                    self.graph.erase_node(node)
                return self.create_proxy("call_module", path, args, kwargs)

        def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
            names, self.unused = _arguments(root_fn)
            return root_fn, [self.root, *(self.create_proxy("placeholder", name, (), {}) for name in names)]

    return ModuleTracer, proxy_class


def _arguments(function: Any) -> tuple[list[str], list[str]]:
    """The arguments of a forward that are the model's inputs, and the optional ones, which keep their defaults."""
    kinds = inspect.Parameter
    every = list(inspect.signature(function).parameters.values())[1:]
    plain = [p for p in every if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    needed = [p.name for p in plain if p.default is kinds.empty] or [p.name for p in plain[:1]]
    keyword = [p.name for p in every if p.kind is kinds.KEYWORD_ONLY and p.default is kinds.empty]
    if keyword or not needed:
        what = f"needs keyword arguments ({', '.join(keyword)})" if keyword else "takes no named argument"
        raise FormatError(f"forward {what}: wrap the model in a module whose forward takes the input tensors by position")
    rest = [p.name for p in every if p.name not in needed and p.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)]
    return needed, rest


def _reason(error: BaseException) -> str:
    where = place(error)
    return one_line(error) + (f" ({where})" if where else "")


def _symbolic(model: Any, copy: Any, input_shape: InputShapes | None) -> Traced:
    torch = load()
    tracer = _classes()[0]()
    try:
        graph = tracer.trace(copy)
    except FormatError:
        raise
    except Exception as error:
        raise _UntraceableError(_reason(error)) from error
    module = torch.fx.GraphModule(copy, graph, class_name=type(model).__name__)
    entries = [node for node in graph.nodes if node.op == "placeholder"]
    dtype = dtype_name(floating_dtype(model))
    noted = _noted(model)
    inputs = tuple(InputSpec(entry.target, shape, "int64" if _is_index(entry, module) else dtype, noted.get(entry.target))
                   for entry, shape in zip(entries, spread([entry.target for entry in entries], input_shape), strict=True))
    traced = Traced(module, model, inputs)
    if tracer.unused:
        traced.notes.append(f"optional arguments keep their defaults: {', '.join(tracer.unused)}")
    for path, reason in tracer.whole.items():
        traced.pinned[path] = reason
        traced.notes.append(f"{path} is left whole: {reason}")
    make_pure(module, model)
    return traced


def _is_index(entry: Any, module: Any) -> bool:
    """Whether an input is looked up in a table: then it is made of whole numbers."""
    torch = load()
    tables, calls = (torch.nn.Embedding, torch.nn.EmbeddingBag), (torch.nn.functional.embedding, torch.nn.functional.one_hot)
    return any(
        isinstance(module.get_submodule(user.target), tables) if user.op == "call_module"
        else user.target in calls and user.args[0] is entry
        for user in entry.users
    )


def _look_inside(model: Any, copy: Any, input_shape: InputShapes | None, traced: Traced) -> Traced:
    """Where whole blocks could not be traced, torch.export may still see into them, given an example shape."""
    blocks = [path for path, reason in traced.pinned.items() if reason.startswith("its code cannot be traced")]
    if not blocks:
        return traced
    if input_shape is None:
        traced.notes.append(f"give an input shape so that torch.export can look into {', '.join(blocks)}")
        return traced
    try:
        return _exported(model, copy, input_shape, _UntraceableError(traced.pinned[blocks[0]]))
    except FormatError:
        return traced


def _exported(model: Any, copy: Any, input_shape: InputShapes | None, cause: _UntraceableError) -> Traced:
    """torch.export of the model on an example of the given shape, the batch left free where that can be done."""
    from decascade.formats.torch.export import export_module, trace_program

    name = type(model).__name__
    failed = f"torch.fx cannot trace {name}: {cause}"
    if input_shape is None:
        raise FormatError(f"{failed}; give an input shape so that torch.export can try, {WAY_ROUND}")
    kind = cast(Any, type(copy))
    names, _ = _arguments(kind.forward)
    shapes = spread(names, input_shape)
    if not all(shape is not None and all(isinstance(n, int) for n in shape[1:]) for shape in shapes):
        raise FormatError(f"{failed}; torch.export needs every size of the input shape, {WAY_ROUND}")
    hooked = [path for path, part in model.named_modules() if hook_reason(part)]
    if hooked:
        raise FormatError(f"{failed}; and torch.export would drop the hooks of {hooked[0]}: remove them")
    try:
        program = export_module(copy, [shape for shape in shapes if shape is not None])
    except Exception as error:
        both = f"neither torch.fx ({cause}) nor torch.export ({_reason(error)})"
        raise FormatError(f"{both} can trace {name}: rewrite that line, {WAY_ROUND}") from None
    traced = trace_program(program)
    traced.notes.append(f"torch.fx cannot trace it ({cause}); it was read through torch.export")
    return traced
