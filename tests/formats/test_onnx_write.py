"""Native rewriting: what is kept is carried untouched, what goes goes whole, what comes fits in."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from decascade.algebra.compose import compose
from decascade.algebra.conv import Conv
from decascade.errors import FormatError
from decascade.formats.base import Document
from decascade.formats.onnx import model as onnx_model
from decascade.formats.onnx.format import FORMAT
from decascade.formats.onnx.model import OnnxModel
from decascade.formats.registry import format_of
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.interpret import run
from decascade.ir.ops import Activation, Identity, Select, Slice
from formats.onnx_cases import N, close, ints, model, numbers, onnxruntime_outputs, ops, sample


def chain() -> Any:
    """Two 1×1 convolutions and a ReLU, with everything that a file can carry besides."""
    nodes = [
        N("Conv", ["x", "w1"], ["t"], name="first"),
        N("Conv", ["t", "w2", "b2"], ["u"], name="second", doc_string="about it"),
        N("Relu", ["u"], ["y"], name="act"),
    ]
    weights = {"w1": numbers(20, 3, 3, 3), "w2": numbers(4, 20, 1, 1), "b2": numbers(4), "spare": numbers(2)}
    proto = model(nodes, ("N", 3, 5, 5), weights)
    proto.doc_string, proto.producer_name, proto.model_version = "a model", "someone", 7
    proto.graph.doc_string = "a graph"
    helper.set_model_props(proto, {"classes": "cat,dog"})
    proto.graph.node[2].metadata_props.add(key="colour", value="blue")
    for name, channels in (("t", 20), ("u", 4)):
        proto.graph.value_info.append(helper.make_tensor_value_info(name, 1, ("N", channels, 3, 3)))
    proto.graph.quantization_annotation.add(tensor_name="t")
    return proto


def merged(document: Document, first: str, second: str, name: str = "merged") -> Graph:
    """The graph with two convolutions in one, made by hand."""
    nodes = {node.name: node for node in document.graph.nodes}
    a, b = nodes[first], nodes[second]
    assert isinstance(a.op, Conv)
    assert isinstance(b.op, Conv)
    one = Node(name, compose(b.op, a.op), a.inputs, b.outputs)
    return document.graph.with_nodes([one if n is b else n for n in document.graph.nodes if n is not a])


def same_function(a: Any, b: Any, tolerance: float = 2e-5) -> None:
    onnx.checker.check_model(b, full_check=True)
    feeds = sample(a)
    expected, found = onnxruntime_outputs(a, feeds), onnxruntime_outputs(b, feeds)
    assert list(expected) == list(found)
    for name, value in expected.items():
        close(found[name], value, tolerance)


def test_writing_the_graph_as_read_gives_the_same_model() -> None:
    proto = chain()
    document = FORMAT.read(proto)
    assert FORMAT.write(document, document.graph) == proto


def test_only_the_replaced_segment_changes() -> None:
    proto = chain()
    before = proto.SerializeToString()
    document = FORMAT.read(proto)
    made = FORMAT.write(document, merged(document, "first", "second"))
    assert proto.SerializeToString() == before, "the given model must not change"
    assert [n.name for n in made.graph.node] == ["merged", "act"]
    assert made.graph.node[1] == proto.graph.node[2]
    assert [t.name for t in made.graph.initializer] == ["spare", "merged_weight", "merged_bias"]
    assert [v.name for v in made.graph.value_info] == ["u"]
    assert not made.graph.quantization_annotation
    rest = [made, onnx.ModelProto.FromString(before)]
    for part in rest:
        for field in ("node", "initializer", "value_info", "quantization_annotation"):
            part.graph.ClearField(field)
    assert rest[0] == rest[1], "metadata, names, opsets, inputs and outputs stay"
    same_function(chain(), FORMAT.write(document, merged(document, "first", "second")))


def test_new_names_keep_clear_of_those_there_are() -> None:
    proto = chain()
    proto.graph.initializer[3].name = "first_weight"
    proto.graph.node[2].input[0] = proto.graph.node[1].output[0] = "first"
    document = FORMAT.read(proto)
    made = FORMAT.write(document, merged(document, "first", "second", "first"))
    # "first" is the name of a tensor that stays
    assert [n.name for n in made.graph.node] == ["first_1", "act"]
    assert {t.name for t in made.graph.initializer} == {"first_weight", "first_weight_1", "first_bias"}
    same_function(proto, made)


def test_trained_node_keeps_its_name_and_its_place() -> None:
    proto = chain()
    document = FORMAT.read(proto)
    nodes = {n.name: n for n in document.graph.nodes}
    op = nodes["second"].op
    assert isinstance(op, Conv)
    trained = replace(nodes["second"], op=replace(op, weight=2 * op.weight.astype(np.float64)))
    graph = replace(document.graph, nodes=(nodes["first"], trained, nodes["act"]))
    made = FORMAT.write(document, graph)
    assert [(n.name, n.op_type, list(n.output)) for n in made.graph.node] == [
        ("first", "Conv", ["t"]), ("second", "Conv", ["u"]), ("act", "Relu", ["y"])
    ]
    weights = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    assert set(weights) == {"w1", "spare", "second_weight", "second_bias"}
    assert weights["second_weight"].dtype == np.float32
    x = sample(proto)
    assert not np.array_equal(onnxruntime_outputs(made, x)["y"], onnxruntime_outputs(proto, x)["y"])
    close(run(graph, x)["y"], onnxruntime_outputs(made, x)["y"])


def test_weights_that_another_node_uses_stay() -> None:
    nodes = [
        N("Conv", ["x", "w"], ["t"], name="a"),
        N("Conv", ["t", "w"], ["u"], name="b"),
        N("Relu", ["u"], ["v"]),
        N("Conv", ["v", "w"], ["y"], name="c"),
    ]
    proto = model(nodes, ("N", 3, 5, 5), {"w": numbers(3, 3, 1, 1)})
    document = FORMAT.read(proto)
    made = FORMAT.write(document, merged(document, "a", "b"))
    assert [t.name for t in made.graph.initializer] == ["w", "merged_weight"]
    same_function(proto, made)


@pytest.mark.parametrize("ir_version", [3, 8])
def test_initializers_that_are_listed_as_inputs(ir_version: int) -> None:
    proto = chain()
    proto.ir_version = ir_version
    proto.opset_import[0].version = 8
    proto.graph.node[2].ClearField("metadata_props")
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    document = FORMAT.read(proto)
    assert document.graph.inputs == ("x",)
    assert FORMAT.write(document, document.graph) == proto
    made = FORMAT.write(document, merged(document, "first", "second"))
    new = ["merged_weight", "merged_bias"] if ir_version == 3 else []
    assert [i.name for i in made.graph.input] == ["x", "spare", *new]
    same_function(proto, made)


def test_nodes_without_names_and_with_equal_names() -> None:
    nodes = [
        N("Conv", ["x", "w"], ["t"]),
        N("Conv", ["t", "w"], ["u"], name="same"),
        N("Conv", ["u", "w"], ["v"], name="same"),
        N("Relu", ["v"], ["y"]),
    ]
    proto = model(nodes, ("N", 3, 5, 5), {"w": numbers(3, 3, 1, 1)})
    document = FORMAT.read(proto)
    assert [n.name for n in document.graph.nodes] == ["Conv_0", "same", "same_1", "Relu_3"]
    assert FORMAT.write(document, document.graph) == proto
    made = FORMAT.write(document, merged(document, "Conv_0", "same"))
    assert [n.name for n in made.graph.node] == ["merged", "same", ""]
    onnx.checker.check_model(made, full_check=True)  # onnxruntime itself wants names to differ


def branches() -> Any:
    nodes = [
        N("Split", ["x"], ["a", "b"], axis=1, name="split"),
        N("Relu", ["a"], ["p"], name="r"),
        N("Concat", ["p", "b"], ["y"], axis=1, name="join"),
    ]
    return model(nodes, ("N", 4, 5, 5), opset=11)


def test_a_part_of_a_split_can_be_replaced_alone() -> None:
    proto = branches()
    document = FORMAT.read(proto)
    graph = document.graph
    part = graph.producer["a"]
    swapped = replace(part, name="instead", origin=(), native=None, op=Select(np.array([0, 1])))
    made = FORMAT.write(document, graph.with_nodes([swapped if n is part else n for n in graph.nodes]))
    split = next(n for n in made.graph.node if n.op_type == "Split")
    assert list(split.output) == ["a_unused", "b"]
    same_function(proto, made)


def test_a_split_goes_with_its_last_part() -> None:
    proto = branches()
    document = FORMAT.read(proto)
    nodes = [replace(n, name=f"{n.name}_new", native=None) if isinstance(n.op, Select) else n for n in document.graph.nodes]
    made = FORMAT.write(document, document.graph.with_nodes(nodes))
    assert [n.op_type for n in made.graph.node] == ["Slice", "Slice", "Relu", "Concat"]
    same_function(proto, made)


def test_kept_nodes_may_read_and_write_other_tensors() -> None:
    nodes = [N("Identity", ["x"], ["t"], name="i"), N("Relu", ["t"], ["u"], name="r"), N("Identity", ["u"], ["y"], name="j")]
    proto = model(nodes, ("N", 3))
    document = FORMAT.read(proto)
    relu = replace(document.graph.nodes[1], inputs=("x",), outputs=("y",))
    made = FORMAT.write(document, document.graph.with_nodes([relu]))
    assert [(n.name, list(n.input), list(n.output)) for n in made.graph.node] == [("r", ["x"], ["y"])]
    same_function(proto, made)


def conditional() -> Any:
    """A condition whose branches read t of the graph around them."""
    def branch(kind: str) -> Any:
        end = helper.make_tensor_value_info("inner", 1, None)
        return helper.make_graph([N(kind, ["t"], ["mid"]), N("Add", ["mid", "shared"], ["inner"])], kind, [], [end])

    nodes = [
        N("Identity", ["x"], ["s"], name="one"),
        N("Identity", ["s"], ["t"], name="two"),
        N("If", ["flag"], ["y"], name="if", then_branch=branch("Relu"), else_branch=branch("Neg")),
    ]
    info = helper.make_tensor_value_info
    inputs, outputs = [info("x", 1, ("N", 3)), info("flag", TensorProto.BOOL, ())], [info("y", 1, ("N", 3))]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(numbers(1), "shared")])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto)
    return proto


def test_what_a_subgraph_reads_is_an_input_of_its_node() -> None:
    proto = conditional()
    document = FORMAT.read(proto)
    assert ops(document) == ["Identity", "Identity", "[If]"]
    assert document.graph.nodes[2].inputs == ("flag", "t")
    assert FORMAT.write(document, document.graph) == proto
    graph = document.graph
    one = Node("once", Identity(), ("x",), ("t",))
    made = FORMAT.write(document, graph.with_nodes([one, graph.nodes[2]]))
    assert [n.name for n in made.graph.node] == ["once", "if"]
    assert [t.name for t in made.graph.initializer] == ["shared"]
    feeds = {"x": numbers(2, 3), "flag": np.array(False)}
    close(onnxruntime_outputs(made, feeds)["y"], onnxruntime_outputs(proto, feeds)["y"])


def test_a_subgraph_keeps_its_names_when_its_node_reads_another_tensor() -> None:
    proto = conditional()
    document = FORMAT.read(proto)
    node = document.graph.nodes[2]
    made = FORMAT.write(document, document.graph.with_nodes([replace(node, inputs=("flag", "x"))]))
    onnx.checker.check_model(made, full_check=True)
    feeds = {"x": numbers(2, 3), "flag": np.array(True)}
    close(onnxruntime_outputs(made, feeds)["y"], onnxruntime_outputs(proto, feeds)["y"])


def constants() -> Any:
    """Weights that nodes make: one constant as it is, one through a transpose."""
    nodes = [
        N("Constant", [], ["w"], value=numpy_helper.from_array(numbers(4, 3, 1, 1))),
        N("Conv", ["x", "w"], ["t"], name="a"),
        N("Transpose", ["raw"], ["v"], perm=[3, 2, 0, 1]),
        N("Conv", ["t", "v"], ["u"], name="b"),
        N("Constant", [], ["half"], value_float=0.5),
        N("Mul", ["u", "half"], ["y"], name="c"),
    ]
    return model(nodes, ("N", 3, 5, 5), {"raw": numbers(1, 1, 4, 6)})


def test_nodes_that_make_constants_stay_where_they_are_and_go_with_the_last_reader() -> None:
    proto = constants()
    document = FORMAT.read(proto)
    assert ops(document) == ["Conv", "Conv", "Affine"]
    assert FORMAT.write(document, document.graph) == proto
    made = FORMAT.write(document, merged(document, "a", "b"))
    assert [n.op_type for n in made.graph.node] == ["Conv", "Constant", "Mul"]
    assert [t.name for t in made.graph.initializer] == ["merged_weight"]
    same_function(proto, made)


def test_constants_and_initializers_that_are_outputs() -> None:
    nodes = [N("Constant", [], ["k"], value_float=0.5), N("Mul", ["x", "k"], ["y"])]
    proto = model(nodes, ("N", 3), {"w": numbers(2)}, outputs=("y", "k"))
    proto.graph.output.append(helper.make_tensor_value_info("w", 1, (2,)))
    document = FORMAT.read(proto)
    assert document.graph.outputs == ("y", "k", "w")
    feeds = sample(proto)
    for name, value in run(document.graph, feeds).items():
        close(value, onnxruntime_outputs(proto, feeds)[name])
    assert FORMAT.write(document, document.graph) == proto
    nodes_new = [replace(n, name="new", native=None) if n.outputs == ("y",) else n for n in document.graph.nodes]
    same_function(proto, FORMAT.write(document, document.graph.with_nodes(nodes_new)))


def sized(batch: int | str) -> Any:
    """A target shape computed from a tensor that a merge does away with."""
    nodes = [
        N("Conv", ["x", "w"], ["t"], name="a"),
        N("Shape", ["t"], ["s"]),
        N("Gather", ["s", "zero"], ["n"], axis=0),
        N("Unsqueeze", ["n", "zeros"], ["m"]),
        N("Concat", ["m", "rest"], ["target"], axis=0),
        N("Conv", ["t", "w"], ["u"], name="b"),
        N("Reshape", ["u", "target"], ["y"], name="flat"),
    ]
    weights = {"w": numbers(3, 3, 1, 1), "zero": np.array(0), "zeros": ints(0), "rest": ints(-1)}
    return model(nodes, (batch, 3, 4, 4), weights)


@pytest.mark.parametrize("batch", ["N", 2])
def test_sizes_of_a_tensor_that_is_gone(batch: int | str) -> None:
    proto = sized(batch)
    document = FORMAT.read(proto)
    assert ops(document) == ["Conv", "Conv", "Flatten"]
    assert FORMAT.write(document, document.graph) == proto
    made = FORMAT.write(document, merged(document, "a", "b"))
    assert not [n for n in made.graph.node if n.op_type == "Shape"]
    same_function(proto, made)


def test_sizes_that_an_unknown_node_reads_are_part_of_the_graph() -> None:
    nodes = [N("Shape", ["x"], ["s"]), N("Expand", ["k", "s"], ["e"]), N("Mul", ["x", "e"], ["y"])]
    proto = model(nodes, ("N", 3), {"k": numbers(1)})
    document = FORMAT.read(proto)
    assert ops(document) == ["[Shape]", "[Expand]", "Product"]
    assert FORMAT.write(document, document.graph) == proto
    feeds = sample(proto)
    close(run(document.graph, feeds)["y"], onnxruntime_outputs(proto, feeds)["y"])


def test_inputs_and_outputs_must_stay() -> None:
    document = FORMAT.read(chain())
    with pytest.raises(FormatError, match="the new graph has other inputs or outputs than the model"):
        FORMAT.write(document, replace(document.graph, outputs=("u",)))


def test_new_tensors_may_have_names_of_their_own() -> None:
    proto = model([N("Relu", ["x"], ["y"])], ("N", 4, 5, 5))
    document = FORMAT.read(proto)
    shape = ("N", 4, 3, 5)
    cut = Node("cut", Slice(2, 1, 4), ("x",), ("y_new",))
    act = Node("act", Activation("relu"), ("y_new",), ("y",))
    tensors = {"y_new": Tensor("y_new", shape), "y": Tensor("y", shape)}
    made = FORMAT.write(document, document.graph.with_nodes([act, cut], tensors))
    assert [list(n.output) for n in made.graph.node] == [["y_new"], ["y"]]


@pytest.mark.parametrize("kind", [onnx.ModelProto, onnx_ir.Model, OnnxModel])
def test_a_model_comes_back_as_what_it_was(kind: type, tmp_path: Path) -> None:
    proto = chain()
    given: Any = proto
    if kind is onnx_ir.Model:
        given = onnx_ir.from_proto(proto)
    if kind is OnnxModel:
        given = tmp_path / "m.onnx"
        onnx.save(proto, given)
    assert format_of(given) is FORMAT
    document = FORMAT.read(given)
    made = FORMAT.write(document, merged(document, "first", "second"))
    assert isinstance(made, kind)
    assert format_of(made) is FORMAT
    FORMAT.save(made, tmp_path / "out.onnx")
    same_function(proto, onnx.load(tmp_path / "out.onnx"))
    feeds = sample(proto)
    close(FORMAT.run(made, feeds)["y"], onnxruntime_outputs(proto, feeds)["y"])
    assert ops(FORMAT.read(made)) == ["Conv", "Activation"]


def test_the_live_form_of_a_file_is_a_model_proto(tmp_path: Path) -> None:
    onnx.save(chain(), tmp_path / "m.onnx")
    document = FORMAT.read(tmp_path / "m.onnx")
    assert FORMAT.live(FORMAT.write(document, document.graph)) == chain()


EXTERNAL: dict[str, Callable[[Any, Path], None]] = {
    "one file": lambda p, f: onnx.save(p, f, save_as_external_data=True, location="w.bin", size_threshold=0),
    "a file each": lambda p, f: onnx.save(p, f, save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=0),
    "large ones": lambda p, f: onnx.save(p, f, save_as_external_data=True, location="w.bin"),
}


@pytest.mark.parametrize("case", EXTERNAL)
def test_external_data_is_read_and_written_as_such(case: str, tmp_path: Path) -> None:
    proto, path = chain(), tmp_path / "m.onnx"
    EXTERNAL[case](chain(), path)
    document = FORMAT.read(path)
    assert FORMAT.live(document.native) == proto
    made = FORMAT.write(document, merged(document, "first", "second"))
    out = tmp_path / "o" / "out.onnx"
    out.parent.mkdir()
    FORMAT.save(made, out)
    FORMAT.save(FORMAT.write(document, document.graph), out.with_name("same.onnx"))
    names = [re.sub(r"[0-9a-f]{16}", "DIGEST", p.name) for p in sorted(out.parent.iterdir())]
    # of the merged model no weight is large enough to lie outside
    assert sorted(names) == ["out.onnx", "same.onnx", "same.onnx.DIGEST.data"]
    onnx.checker.check_model(out, full_check=True)
    same_function(proto, onnx.load(out))
    assert FORMAT.live(FORMAT.read(out.with_name("same.onnx")).native) == proto
    live = FORMAT.read(onnx_ir.load(path))
    assert list(FORMAT.live(live.native).graph.initializer) == list(proto.graph.initializer)


def test_weights_that_fit_no_message_go_to_a_file_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_model, "_MAX_MESSAGE", 2000)
    proto = chain()
    document = FORMAT.read(proto)
    with pytest.raises(FormatError, match=r"a model of 0.00 GiB fits no ModelProto \(2 GiB\): save it to a file instead"):
        FORMAT.live(document.native)
    FORMAT.save(document.native, tmp_path / "m.onnx")
    assert sorted(re.sub(r"[0-9a-f]{16}", "DIGEST", p.name) for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.DIGEST.data"]
    same_function(proto, onnx.load(tmp_path / "m.onnx"))


def test_external_data_of_constants_in_nodes_is_read(tmp_path: Path) -> None:
    proto, path = constants(), tmp_path / "m.onnx"
    expected = onnxruntime_outputs(proto, sample(proto))["y"]
    onnx.save(proto, path, save_as_external_data=True, location="w.bin", size_threshold=0, convert_attribute=True)
    document = FORMAT.read(path)
    close(run(document.graph, sample(proto))["y"], expected)
    close(FORMAT.run(document.native, sample(proto))["y"], expected)
    FORMAT.save(document.native, tmp_path / "out.onnx")
    close(onnxruntime_outputs(onnx.load(tmp_path / "out.onnx"), sample(proto))["y"], expected)


def test_the_check_of_equal_functions_can_fail() -> None:
    document = FORMAT.read(chain())
    graph = merged(document, "first", "second")
    node = graph.nodes[0]
    assert isinstance(node.op, Conv)
    weight = node.op.weight.copy()
    weight[0, 0, 1, 1] += 0.01
    broken = replace(node, op=Conv(weight, node.op.bias))
    made = FORMAT.write(document, graph.with_nodes([broken, *graph.nodes[1:]]))
    with pytest.raises(AssertionError, match="off by"):
        same_function(chain(), made)
