"""A changed graph as a new nn.Module: the user's own code replayed, with the replaced segments as new submodules.

The result is an fx.GraphModule.  Kept submodules and parameters are deep copies under their own names; the model that was
read is neither changed nor shared.
"""

from __future__ import annotations

import operator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, cast

from decascade.errors import FormatError
from decascade.formats.torch.build import Builder
from decascade.formats.torch.common import FIXED, META, floating_dtype, load, one_line
from decascade.formats.torch.emit import emit
from decascade.formats.torch.pure import VIEWS, call_name
from decascade.formats.torch.read import Reading, Source
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import BiasMap, Slice


@dataclass(eq=False)
class _Writer:
    """The state of one writing; `placed` maps tensor names to fx nodes of the new graph."""

    reading: Reading
    builder: Builder
    placed: dict[str, Any] = field(default_factory=dict[str, Any])
    constants: dict[Any, Any] = field(default_factory=dict[Any, Any])

    def kept(self, node: Node) -> Source | None:
        """Where a node of the new graph comes from; None for one that is new or was changed."""
        source = self.reading.sources.get(node.name)
        return source if source is not None and self.reading.nodes[node.name].op is node.op else None


def write_module(reading: Reading, new: Graph) -> Any:
    """The nn.Module of a graph whose kept nodes are those that were read, by name.

    Raises:
        FormatError: weights on more than one device, or a submodule that cannot be copied.
        GraphError: a new operation that PyTorch has no form for.
    """
    torch = load()
    original = reading.traced.original
    root = torch.nn.Module().train(original.training)
    trainable = any(p.requires_grad for p in original.parameters()) or not any(True for _ in original.parameters())
    paths = {path for path, _ in original.named_modules() if path}
    builder = Builder(root, torch.fx.Graph(), _device(original), original.training, trainable, paths)
    writer = _Writer(reading, builder)
    placeholders = [node for node in reading.traced.module.graph.nodes if node.op == "placeholder"]
    for node, name in zip(placeholders, new.inputs, strict=True):
        writer.placed[name] = _bare(builder.graph.node_copy(node))
    _adopt_parts(writer, new)
    together = _together(writer, new)
    for node in new.nodes:
        source, entry = writer.kept(node), together.get(node.name, node)
        if entry is None or (source is not None and _replay(writer, node, source, entry.inputs)):
            continue
        _emit(writer, node, new)
    return _finished(writer, new)


def _device(original: Any) -> Any:
    devices = {str(tensor.device) for tensor in (*original.parameters(), *original.buffers())}
    if len(devices) > 1:
        raise FormatError(f"the model lies on several devices ({', '.join(sorted(devices))}): move it to one first")
    return devices.pop() if devices else "cpu"


def _adopt_parts(writer: _Writer, new: Graph) -> None:
    """Deep copies of all submodules and parameters that kept nodes use, before new parts take names."""
    targets, seen = set[str](), set[Any]()
    for node in new.nodes:
        source = writer.kept(node)
        stack = list(source.outputs) if source is not None else []
        while source is not None and stack:
            current = stack.pop()
            if current in seen or current in source.inputs:
                continue
            seen.add(current)
            if current.op in ("call_module", "get_attr"):
                targets.add(current.target)
            stack += [s for s in current.all_input_nodes if writer.reading.values.kinds[s] != "tensor" or _inside(s, source)]
    memo: dict[int, Any] = {}
    for target in sorted(targets, key=lambda path: (path.count("."), path)):
        _adopt(writer, target, memo)


def _inside(node: Any, source: Source) -> bool:
    """Whether a tensor is an inner value of a kept node: neither its input nor another node's result."""
    return node not in source.inputs and node in source.inner


def _adopt(writer: _Writer, path: str, memo: dict[int, Any]) -> None:
    traced, torch = writer.reading.traced, load()
    source, target = traced.original, writer.builder.root
    *parents, leaf = path.split(".")
    if not _has(source, path):
        source = traced.module  # a tensor that the code makes out of nothing: fx keeps it beside the model
    for name in parents:
        source = getattr(source, name)
        if name not in target._modules:
            target.add_module(name, torch.nn.Module())
        target = target._modules[name]
    value = getattr(source, leaf)
    for part in value.modules() if isinstance(value, torch.nn.Module) else ():
        # what a hook computes from parameters (weight_norm of old) is no leaf, which deepcopy refuses
        made = [t for t in part.__dict__.values() if isinstance(t, torch.Tensor) and not t.is_leaf]
        memo.update({id(tensor): tensor.detach().clone() for tensor in made})
    try:
        copied = deepcopy(value, memo)
    except Exception as error:
        raise FormatError(f"{path} cannot be copied ({one_line(error)}): make it work with copy.deepcopy") from None
    if isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter):
        target.register_buffer(leaf, copied, persistent=leaf not in source._non_persistent_buffers_set)
    else:
        setattr(target, leaf, copied)


def _has(module: Any, path: str) -> bool:
    for part in path.split("."):
        if not hasattr(module, part):
            return False
        module = getattr(module, part)
    return True


def _bare(node: Any) -> Any:
    """An fx node without what was noted of its value in the old graph."""
    for key in ("val", "tensor_meta", "example_value"):
        node.meta.pop(key, None)
    return node


def _together(writer: _Writer, new: Graph) -> dict[str, Node | None]:
    """Nodes that stand for one chain of calls and are all kept: the last is replayed on what the first reads.

    The others map to None.  Where one of them is gone, each of the rest is emitted as a new operation.
    """
    present, found = {node.name: node for node in new.nodes}, dict[str, Node | None]()
    for node in new.nodes:
        source = writer.kept(node)
        if source is None or not source.parts:
            continue
        parts = [present.get(name) for name in source.parts]
        alone = all(p is not None and len(new.consumers[p.output]) == 1 for p in parts)
        same = all(p is not None and p.op is writer.reading.nodes[p.name].op for p in parts)
        if alone and same and not any(p is not None and p.output in new.outputs for p in parts):
            found.update(dict.fromkeys(source.parts), **{node.name: parts[0]})
    return found


def _replay(writer: _Writer, node: Node, source: Source, inputs: tuple[str, ...]) -> bool:
    """Copy the calls of a kept node; False if one of them asks the size of a tensor that is gone."""
    if len(source.inputs) != len(inputs) or (source.parts and inputs == node.inputs):
        return False
    known = {old: writer.placed[name] for old, name in zip(source.inputs, inputs, strict=True)}
    order = list[Any]()
    for output in source.outputs:
        if not _plan(writer, output, source, known, order):
            return False
    for current in order:
        if current not in known:
            known[current] = _bare(writer.builder.graph.node_copy(current, known.__getitem__))
            if writer.reading.values.kinds[current] == "constant":
                writer.constants[current] = known[current]
    for output, name in zip(source.outputs, node.outputs, strict=True):
        writer.placed[name] = known[output]
    return True


def _plan(writer: _Writer, node: Any, source: Source, known: dict[Any, Any], order: list[Any]) -> bool:
    """Append the calls that make `node`, in order; False where one needs a tensor that is gone."""
    if node in known or node in order:
        return True
    if node in writer.constants:
        known[node] = writer.constants[node]
        return True
    kinds, tensors = writer.reading.values.kinds, writer.reading.tensors
    for feed in node.all_input_nodes:
        if kinds[feed] == "tensor" and feed not in known and feed not in source.inner:
            if tensors.get(feed) not in writer.placed:
                return False
            known[feed] = writer.placed[tensors[feed]]
        if not _plan(writer, feed, source, known, order):
            return False
    order.append(node)
    return True


def _emit(writer: _Writer, node: Node, new: Graph) -> None:
    inputs = [writer.placed[name] for name in node.inputs]
    shape = new.shape(node.inputs[0])
    dtype = getattr(load(), new.tensors[node.output].dtype, None)
    if dtype is None or not dtype.is_floating_point:
        dtype = floating_dtype(writer.reading.traced.original)
    rank = len(shape) - 2 if shape is not None else 0
    writer.placed[node.output] = emit(writer.builder, node, inputs, rank, dtype)


def _finished(writer: _Writer, new: Graph) -> Any:
    torch = load()
    reading, graph = writer.reading, writer.builder.graph
    original = reading.traced.original
    output = next(node for node in reading.traced.module.graph.nodes if node.op == "output")

    def placed(leaf: Any) -> Any:
        return writer.placed[reading.tensors[leaf]]

    if fixed := _right_at_one_size(writer, new):
        _check_sizes(writer, new)
    more = {name: writer.placed[name] for name in new.outputs[len(reading.graph.outputs) :]}
    graph.output(_with_more(torch.fx.node.map_arg(output.args[0], placed), more))
    _keep_pure(graph, writer.builder.root)
    graph.lint()
    module = torch.fx.GraphModule(writer.builder.root, graph, class_name=type(original).__name__)
    module.training = original.training
    for path, part in module.named_modules():
        if path and _has(original, path):
            part.training = original.get_submodule(path).training
        if _has(writer.builder.root, path) and path:
            part._non_persistent_buffers_set |= writer.builder.root.get_submodule(path)._non_persistent_buffers_set
    module._non_persistent_buffers_set |= writer.builder.root._non_persistent_buffers_set & set(module._buffers)
    module.meta[META] = {name: (new.tensors[name].shape, new.tensors[name].dtype) for name in new.inputs}
    module.meta[FIXED] = fixed
    return module


def _right_at_one_size(writer: _Writer, new: Graph) -> bool:
    """Whether the model is right only for maps of the sizes that it was read with: it was written so already, torch.export
    followed it on an example, or something new in it is."""
    traced = writer.reading.traced
    before = getattr(traced.original, "meta", {}).get(FIXED, False) or traced.exported
    made = [node for node in new.nodes if writer.kept(node) is None]
    return before or any(node.sized or isinstance(node.op, (BiasMap, Slice)) for node in made)


def _check_sizes(writer: _Writer, new: Graph) -> None:
    """Calls at the start of the model that refuse inputs of other sizes; the batch is left alone."""
    torch, graph = load(), writer.builder.graph
    same: Any = operator.eq
    first = 1 if writer.reading.traced.exported else 2
    with graph.inserting_after([node for node in graph.nodes if node.op == "placeholder"][-1]):
        for name in reversed(new.inputs):
            shape = new.shape(name) or ()
            opened = ", ".join(str(n) if axis == 1 else "None" for axis, n in enumerate(shape))
            for axis in reversed([a for a, n in enumerate(shape) if a >= first and isinstance(n, int)]):
                told = (f"this model is right only for inputs of size {shape[axis]} along axis {axis}, as it was read: "
                        f"read it with input_shape=({opened}) to leave the sizes open")
                size = graph.call_method("size", (writer.placed[name], axis))
                with graph.inserting_after(size):
                    equal = graph.call_function(same, (size, shape[axis]))
                with graph.inserting_after(equal):
                    graph.call_function(torch._assert, (equal, told))


def _with_more(outputs: Any, more: dict[str, Any]) -> Any:
    """The outputs in their structure with further ones: entries of a dictionary, else at the end of a tuple or list."""
    if not more:
        return outputs
    if isinstance(outputs, dict):
        return {**cast("dict[str, Any]", outputs), **more}
    if isinstance(outputs, list):
        return [*outputs, *more.values()]
    return (*outputs, *more.values()) if isinstance(outputs, tuple) else (outputs, *more.values())


def _keep_pure(graph: Any, root: Any) -> None:
    """An in-place module stays in-place only where its input is a fresh tensor that nothing else reads."""
    for node in graph.nodes:
        module = root.get_submodule(node.target) if node.op == "call_module" else None
        if module is None or not getattr(module, "inplace", False):
            continue
        feed = node.args[0]
        if len(feed.users) > 1 or feed.op not in ("call_module", "call_function") or _may_share(feed, root):
            module.inplace = False


_FRESH = ("Conv", "BatchNorm", "Linear", "Pool", "Norm")


def _may_share(node: Any, root: Any) -> bool:
    if node.op == "call_module":
        return not any(word in type(root.get_submodule(node.target)).__name__ for word in _FRESH)
    return call_name(node) in VIEWS
