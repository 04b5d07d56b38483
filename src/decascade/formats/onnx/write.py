"""A changed graph as ONNX: the file's own nodes replayed, without those that are gone, with new ones in their places."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

import numpy as np

from decascade.errors import FormatError
from decascade.formats.onnx.emit import Emitter
from decascade.formats.onnx.emit_ops import emit
from decascade.formats.onnx.model import OnnxModel, keep_entries
from decascade.formats.onnx.nodes import tensor_names
from decascade.formats.onnx.view import View
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.ops import Foreign


def rewritten(view: View, old: Graph, new: Graph) -> OnnxModel:
    """The model with the nodes of `new`; those that `old` has too, by name and operation, are the file's own.

    Raises:
        FormatError: other inputs or outputs than before, or an operation that the model's opset cannot say.
    """
    if new.inputs != old.inputs or new.outputs[: len(old.outputs)] != old.outputs:
        raise FormatError("the new graph has other inputs or outputs than the model: they must stay as they are")
    return _Replay(view, old, new).model()


class _Replay:
    def __init__(self, view: View, old: Graph, new: Graph) -> None:
        self.view, self.new = view, new
        graph = view.model.shell.graph
        known = {node.name: node for node in old.nodes}
        self.kept = {n.name: known[n.name] for n in new.nodes if n.name in known and known[n.name].op is n.op}
        taken = tensor_names(graph)
        # a node that is emitted anew may have the name of the one that it replaces
        replayed = {index for node in self.kept.values() for index in _indices(node)}
        taken |= {native.name for native in view.natives if native.index in replayed or native.index in view.folded}
        self.emitter = Emitter(view.opset, {*taken, *new.tensors})
        self.nodes: list[Any] = []
        self.placed: set[int] = set()
        self.wanted: deque[int] = deque()
        # what nodes of the new graph write: a replayed node must not write it as well
        self.owned = {name for node in new.nodes for name in node.outputs}
        self.written = {*view.inputs, *(t.name for t in graph.initializer)}

    def model(self) -> OnnxModel:
        self._find_wanted()
        for node in self.new.nodes:
            source = self.kept.get(node.name)
            if source is None or not self._has_sizes(source):
                self._add(emit(self.emitter, node, self.new.tensors))
            else:
                self._replay(node, source)
        for name in self.view.outputs:
            self._place_maker(name)
        shell, weights = self._shell()
        return OnnxModel(shell, weights, self.view.model.external)

    def _add(self, protos: Iterable[Any]) -> None:
        for proto in protos:
            self.nodes.append(proto)
            self.written.update(proto.output)

    def _has_sizes(self, source: Node) -> bool:
        """Whether the sizes that the file's nodes read besides the graph's tensors can still be had."""
        return isinstance(source.op, Foreign) or all(
            self._can_make(name) for index in _indices(source) for name in self.view.natives[index].reads
        )

    def _can_make(self, name: str) -> bool:
        """Whether a tensor is there, is a constant or none of the sizes, or is a size of what is there."""
        maker = self.view.producer.get(name)
        if name in self.written or maker is None or maker.index not in self.view.folded.sizing:
            return True
        return all(
            self._can_make(read) and (read in self.written or self._is_made(read)) for read in maker.reads
        )

    def _is_made(self, name: str) -> bool:
        maker = self.view.producer.get(name)
        return name in self.view.constants or (maker is not None and maker.index in self.view.folded)

    def _replay(self, node: Node, source: Node) -> None:
        """The file's nodes of one kept node; other tensor names than before are put in."""
        pairs = zip((*source.inputs, *source.outputs), (*node.inputs, *node.outputs), strict=True)
        names = {a: b for a, b in pairs if a != b}
        for index in _indices(source):
            if index not in self.placed:
                self._place_before(index)
                self._place(index, names)

    def _find_wanted(self) -> None:
        """The nodes of the file that make constants and sizes for kept nodes, in the file's order."""
        view = self.view
        kept = {index for node in self.kept.values() for index in _indices(node)}
        waiting = [name for index in kept for name in view.natives[index].reads] + list(view.outputs)
        found: set[int] = set()
        while waiting:
            maker = view.producer.get(waiting.pop())
            if maker is not None and maker.index in view.folded and maker.index not in found:
                found.add(maker.index)
                waiting.extend(maker.reads)
        self.wanted = deque(sorted(found))

    def _place_before(self, index: int) -> None:
        """Replay what makes constants and sizes at the place where the file has it."""
        while self.wanted and self.wanted[0] < index:
            maker = self.view.natives[self.wanted.popleft()]
            ready = all(name in self.view.constants or name in self.written for name in maker.reads)
            if ready and maker.index not in self.placed:
                self._place(maker.index, {})

    def _place(self, index: int, names: Mapping[str, str]) -> None:
        self.placed.add(index)
        native = self.view.natives[index]
        for name in native.reads:
            self._place_maker(name)
        proto = native.proto
        stale = {n: self.emitter.fresh(f"{n}_unused") for n in native.writes if self._is_stale(n, index)}
        changed = {**names, **stale}
        if any(n in changed for n in (*native.inputs, *native.outputs)):
            proto = type(proto)()
            proto.CopyFrom(native.proto)
            proto.input[:] = [changed.get(n, n) for n in native.inputs]
            proto.output[:] = [changed.get(n, n) for n in native.outputs]
        for name in native.captured:
            if name in names:  # a subgraph reads its outer graph by name
                self._add([import_module("onnx.helper").make_node("Identity", [names[name]], [name])])
        self._add([proto])

    def _is_stale(self, name: str, index: int) -> bool:
        """Whether a replayed node would write a tensor that another node of the new graph writes."""
        return name in self.owned and not any(
            index in (_indices(kept)) and name in kept.outputs for kept in self.kept.values()
        )

    def _place_maker(self, name: str) -> None:
        """Replay the node that makes a constant before the node that reads it."""
        maker = self.view.producer.get(name)
        if maker is not None and maker.index in self.view.folded and maker.index not in self.placed:
            if name not in self.view.constants or all(n in self.written or self._is_made(n) for n in maker.reads):
                self._place(maker.index, {})
            else:  # say the size of a tensor that is gone
                self.placed.add(maker.index)
                self.emitter.store(name, self.view.constants[name])

    def _shell(self) -> tuple[Any, dict[str, Any]]:
        model, graph = self.view.model, self.view.model.shell.graph
        before = {name for native in self.view.natives for name in native.reads} | set(self.view.outputs)
        read = _read_names(self.nodes) | set(self.view.outputs)
        gone = {t.name for t in graph.initializer if t.name in before and t.name not in read}
        shell = import_module("onnx").ModelProto()
        shell.CopyFrom(model.shell)
        del shell.graph.node[:]
        shell.graph.node.extend(self.nodes)
        keep_entries(shell.graph.initializer, [t for t in shell.graph.initializer if t.name not in gone])
        shell.graph.initializer.extend(self.emitter.headers)
        shell.graph.output.extend(_as_output(self.new.tensors[name]) for name in self.new.outputs[len(graph.output) :])
        keep_entries(shell.graph.input, [i for i in shell.graph.input if i.name not in gone])
        if shell.ir_version < 4:
            shell.graph.input.extend(_as_input(header) for header in self.emitter.headers)
        there = {name for node in self.nodes for name in node.output} | {t.name for t in shell.graph.initializer}
        there |= {i.name for i in shell.graph.input}
        keep_entries(shell.graph.value_info, [v for v in shell.graph.value_info if v.name in there])
        notes = shell.graph.quantization_annotation
        keep_entries(notes, [a for a in notes if a.tensor_name in there])
        kept = {name: array for name, array in model.weights.items() if name not in gone}
        return shell, {**kept, **self.emitter.weights}


def _indices(node: Node) -> tuple[int, ...]:
    """The file's nodes that a kept node stands for."""
    return node.native or ()


def _read_names(nodes: Iterable[Any]) -> set[str]:
    """Everything that nodes and their subgraphs read."""
    found: set[str] = set()
    for node in nodes:
        found.update(node.input)
        for attribute in node.attribute:
            for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                found |= _read_names(graph.node) | {o.name for o in graph.output}
    return found


def _as_output(tensor: Tensor) -> Any:
    """A new output of the model."""
    helper = import_module("onnx.helper")
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)) if tensor.dtype != "bfloat16" else 16
    return helper.make_tensor_value_info(tensor.name, kind, None if tensor.shape is None else list(tensor.shape))


def _as_input(header: Any) -> Any:
    """Before IR version 4 an initializer is an input too."""
    return import_module("onnx.helper").make_tensor_value_info(header.name, header.data_type, list(header.dims))
