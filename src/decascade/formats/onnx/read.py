"""An ONNX model as a graph.  What no reader understands becomes `Foreign`; constants are not part of the graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from decascade.errors import AlgebraError, FormatError, GraphError
from decascade.formats.onnx import activations as onnx_activations
from decascade.formats.onnx import layers as onnx_layers
from decascade.formats.onnx import layout as onnx_layout
from decascade.formats.onnx import moves as onnx_moves
from decascade.formats.onnx.foreign import constant_source, dynamic_inputs, foreign
from decascade.formats.onnx.layers import Matches, Reader
from decascade.formats.onnx.nodes import Native, tensor_names
from decascade.formats.onnx.view import View
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.names import Names
from decascade.ir.shapes import infer_node

READERS: Mapping[str, Reader] = {
    **onnx_layers.READERS,
    **onnx_activations.READERS,
    **onnx_layout.READERS,
    **onnx_moves.READERS,
}
"""One reader per ONNX operator."""


def graph_of(view: View) -> Graph:
    """The graph of a model; `Node.native` holds the indices of the file's nodes that a node stands for.

    Several nodes may stand for one of the file (the parts of a Split), and one for several (a channel shuffle).
    """
    return _Builder(view).build()


class _Builder:
    """Collects nodes and tensors; the shapes that it finds replace those of the view, for they keep symbols apart."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.nodes: list[tuple[int, Node]] = []
        self.tensors: dict[str, Tensor] = {name: self._tensor(name) for name in view.inputs}
        self.names = Names((native.name for native in view.natives), first=1)
        self.absorbed: set[int] = set()

    def build(self) -> Graph:
        view = self.view
        for native in view.natives:
            if native.index in view.folded.constant:
                self._add_constants(native)
            elif native.index in view.folded.sizing:
                continue
            elif native.index not in self.absorbed and not self._add_known(native):
                self._add_foreign(native)
        for name in view.outputs:
            if name in view.constants and name not in self.tensors:
                op = constant_source(view.constants[name])
                self._append(-1, Node(self.names.node(f"{name}_value"), op, (), (name,), (name,), native=()))
        self._add_sizes()
        nodes = tuple(node for _, node in sorted(self.nodes, key=lambda pair: pair[0]))
        return Graph(nodes, view.inputs, view.outputs, self.tensors, str(view.model.shell.graph.name) or "model",
                     frozenset({*tensor_names(view.model.shell.graph), *(native.name for native in view.natives)}))

    def _add_sizes(self) -> None:
        """Nodes that compute sizes are only part of the graph where something in it reads them."""
        wanted = {name for _, node in self.nodes for name in node.inputs} | set(self.view.outputs)
        for native in reversed(self.view.natives):
            if native.index in self.view.folded.sizing and wanted.intersection(native.writes):
                self._add_foreign(native)
                wanted.update(native.reads)

    def _add_constants(self, native: Native) -> None:
        for name in native.writes:
            if name in self.view.outputs:
                op = constant_source(self.view.constants[name])
                node = Node(self.names.own(native.name), op, (), (name,), (native.name,), native=(native.index,))
                self._append(native.index, node)

    def _add_known(self, native: Native) -> bool:
        """Add the node as operations of the graph; False where it is none, or does not fit its inputs."""
        matches = self._recognised(native)
        if not matches:
            return False
        nodes: list[Node] = []
        for match in matches:
            natives = [self.view.natives[k] for k in match.natives]
            name = (natives[0] if native.kind == "MatMul" else natives[-1]).name
            origin = tuple(n.name for n in natives)
            nodes.append(Node(name, match.op, match.inputs, (match.output,), origin, native=match.natives))
        try:
            shapes = [infer_node(node, self.tensors)[0] for node in nodes]
        except GraphError:
            return False
        for node, shape in zip(nodes, shapes, strict=True):
            if shape is not None:
                self.view.shapes[node.output] = shape
            self._settle_dtype(node)
            self._append(native.index, replace(node, name=self.names.own(node.name)))
        self.absorbed.update(k for match in matches for k in match.natives)
        return True

    def _settle_dtype(self, node: Node) -> None:
        """Every operation of the graph keeps its input's element type, whatever the file states.

        Raises:
            FormatError: the file states another one.
        """
        dtype = self.view.dtypes[node.inputs[0]]
        stated = self.view.dtypes.setdefault(node.output, dtype)
        if stated != dtype:
            told = f"tensor {node.output} is stated as {stated}, node {node.name} writes it as {dtype}"
            raise FormatError(f"{told}: the file is damaged")

    def _recognised(self, native: Native) -> Matches:
        view = self.view
        reader = READERS.get(native.kind) if native.standard else None
        if reader is None or not (native.inputs and native.inputs[0] and native.outputs and native.outputs[0]):
            return None
        self._refuse_strings(native)
        try:
            matches = reader(view, native)
        except FormatError:
            raise  # numbers that mean nothing
        except (AlgebraError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            return None  # attributes of a wrong kind or length: carried through, and onnxruntime says what is wrong
        read = {name for match in matches or () for name in match.inputs}
        return matches if all(view.floating(name) and name not in view.constants for name in read) else None

    def _refuse_strings(self, native: Native) -> None:
        constants = self.view.constants
        strings = [name for name in native.reads if name in constants and constants[name].dtype.kind in "OSU"]
        if strings and native.kind in onnx_layers.READERS:
            raise FormatError(f"node {native.name} ({native.kind}) reads {strings[0]}, which holds strings: it takes numbers")

    def _add_foreign(self, native: Native) -> None:
        op = foreign(self.view, native)
        inputs = dynamic_inputs(self.view, native)
        node = Node(self.names.own(native.name), op, inputs, native.writes, (native.name,), native=(native.index,))
        self._append(native.index, node)

    def _append(self, index: int, node: Node) -> None:
        self.nodes.append((index, node))
        for name in node.outputs:
            self.tensors[name] = self._tensor(name)

    def _tensor(self, name: str) -> Tensor:
        return Tensor(name, self.view.shapes.get(name), self.view.dtypes.get(name, "float32"))
