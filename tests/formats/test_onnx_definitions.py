"""What a model defines twice is refused, in files and live models alike: nothing says which definition counts."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from decascade.cli import run
from decascade.errors import FormatError, LimitExceededError
from decascade.formats.onnx.format import FORMAT
from formats.onnx_cases import FLOAT, N, model, numbers, ops

Change = Callable[[Any], object]


def good() -> Any:
    """Two convolutions that merge, the weights of both sizes: in the message, and beside it."""
    weights = {"a": numbers(40, 3, 1, 1), "k": numbers(4, 40, 3, 3), "bias": numbers(4)}
    return model([N("Conv", ["x", "a"], ["t"]), N("Conv", ["t", "k", "bias"], ["y"])], ("N", 3, 8, 8), weights)


def info(name: str, shape: Any = ("N", 3, 8, 8), kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def branch(nodes: list[Any], weights: dict[str, Any] | None = None, inputs: tuple[str, ...] = ()) -> Any:
    stored = [numpy_helper.from_array(w, n) for n, w in (weights or {}).items()]
    return helper.make_graph(nodes, "branch", [info(n) for n in inputs], [info(nodes[-1].output[-1])], stored)


def conditional(then: Any, other: Any | None = None) -> Any:
    """The good model with an If before it whose branches are these."""
    proto = good()
    choice = N("If", ["flag"], ["chosen"], "If_0", then_branch=then, else_branch=other or branch([N("Identity", ["x"], ["r"])]))
    proto.graph.node.insert(0, choice)
    proto.graph.node[1].input[0] = "chosen"
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
    return proto


def looped(body: Any) -> Any:
    proto = good()
    proto.graph.node.insert(0, N("Loop", ["trips", "", "x"], ["went"], "Loop_0", body=body))
    proto.graph.node[1].input[0] = "went"
    proto.graph.initializer.append(numpy_helper.from_array(np.array(2), "trips"))
    return proto


def body(carried: str, inside: list[Any]) -> Any:
    inputs = [info("i", (), TensorProto.INT64), info("go", (), TensorProto.BOOL), info(carried)]
    nodes = [N("Identity", ["go"], ["still"]), *inside]
    return helper.make_graph(nodes, "body", inputs, [info("still", (), TensorProto.BOOL), info(nodes[-1].output[0])])


def function(name: str, nodes: list[Any], inputs: tuple[str, ...] = ("u",), outputs: tuple[str, ...] = ("v",)) -> Any:
    return helper.make_function("own", name, list(inputs), list(outputs), nodes, [helper.make_opsetid("", 17)])


def calling(*functions: Any) -> Any:
    """The good model whose input first goes through own::f."""
    proto = good()
    proto.graph.node.insert(0, N("f", ["x"], ["called"], "call", domain="own"))
    proto.graph.node[1].input[0] = "called"
    proto.functions.extend(functions)
    proto.opset_import.append(helper.make_opsetid("own", 1))
    return proto


def changed(change: Change) -> Any:
    proto = good()
    change(proto)
    return proto


def sparse(name: str) -> Any:
    values = helper.make_tensor(name, TensorProto.FLOAT, [1], [1.0])
    return helper.make_sparse_tensor(values, helper.make_tensor("", TensorProto.INT64, [1], [0]), [4])


def add_attribute(proto: Any) -> None:
    proto.graph.node[0].attribute.append(helper.make_attribute("group", 1))
    proto.graph.node[0].attribute.append(helper.make_attribute("group", 3))


RELU = N("Relu", ["u"], ["v"])
TWICE: dict[str, tuple[Callable[[], Any], str]] = {
    "large initializer": (
        lambda: changed(lambda p: p.graph.initializer.append(numpy_helper.from_array(numbers(4, 40, 3, 3, seed=7), "k"))),
        "the model has two definitions of initializer k, and nothing says which counts: the file is damaged",
    ),
    "small initializer": (
        lambda: changed(lambda p: p.graph.initializer.append(numpy_helper.from_array(numbers(4, seed=7), "bias"))),
        "the model has two definitions of initializer bias, and nothing says which counts",
    ),
    "the same initializer": (
        lambda: changed(lambda p: p.graph.initializer.append(p.graph.initializer[0])),
        "the model has two definitions of initializer a,",
    ),
    "initializers without a name": (
        lambda: changed(lambda p: p.graph.initializer.extend([numpy_helper.from_array(numbers(4), "")] * 2)),
        "the model has two definitions of initializer (no name),",
    ),
    "sparse initializer": (
        lambda: changed(lambda p: p.graph.sparse_initializer.append(sparse("k"))),
        "the model has two definitions of initializer k,",
    ),
    "two sparse initializers": (
        lambda: changed(lambda p: p.graph.sparse_initializer.extend([sparse("s")] * 2)),
        "the model has two definitions of initializer s,",
    ),
    "initializer and node": (
        lambda: changed(lambda p: p.graph.initializer.append(numpy_helper.from_array(numbers(4, 40, 8, 8), "t"))),
        "tensor t is written twice, the second time by node Conv_0: the file is damaged",
    ),
    "input and node": (
        lambda: changed(lambda p: p.graph.input.append(info("t"))),
        "tensor t is written twice, the second time by node Conv_0: the file is damaged",
    ),
    "node outputs": (
        lambda: changed(lambda p: p.graph.node.append(N("Relu", ["t"], ["y"], "late"))),
        "tensor y is written twice, the second time by node late: the file is damaged",
    ),
    "outputs of one node": (
        lambda: changed(lambda p: p.graph.node.append(N("Split", ["t"], ["h", "h"], "halves"))),
        "tensor h is written twice, the second time by node halves: the file is damaged",
    ),
    "input": (
        lambda: changed(lambda p: p.graph.input.append(info("x", ("N", 5)))),
        "the model has two definitions of input x,",
    ),
    "output": (
        lambda: changed(lambda p: p.graph.output.append(p.graph.output[0])),
        "the model has two definitions of output y,",
    ),
    "attribute": (lambda: changed(add_attribute), "node Conv_0 has two definitions of attribute group,"),
    "opset": (
        lambda: changed(lambda p: p.opset_import.append(helper.make_opsetid("ai.onnx", 11))),
        "the model states two opsets, 17 and 11, for the domain ai.onnx: the file is damaged",
    ),
    "function": (
        lambda: calling(function("f", [RELU]), function("f", [N("Neg", ["u"], ["v"])])),
        "the model has two definitions of local function own::f,",
    ),
    "function input": (
        lambda: calling(function("f", [RELU], ("u", "u"))),
        "local function own::f has two definitions of input u,",
    ),
    "function output": (
        lambda: calling(function("f", [RELU], ("u",), ("v", "v"))),
        "local function own::f has two definitions of output v,",
    ),
    "tensor in a function": (
        lambda: calling(function("f", [RELU, N("Neg", ["u"], ["v"], "neg")])),
        "tensor v is written twice in local function own::f, the second time by node neg: the file is damaged",
    ),
    "input and tensor of a function": (
        lambda: calling(function("f", [N("Neg", ["u"], ["u"], "neg"), RELU])),
        "tensor u is written twice in local function own::f, the second time by node neg",
    ),
    "tensor in a branch": (
        lambda: conditional(branch([N("Relu", ["x"], ["r"]), N("Neg", ["x"], ["r"], "neg")])),
        "tensor r is written twice in subgraph then_branch of node If_0, the second time by node neg",
    ),
    "initializer in a branch": (
        lambda: conditional(
            (lambda g: (g.initializer.append(g.initializer[0]), g)[1])(branch([N("Add", ["x", "w"], ["r"])], {"w": numbers(8)}))
        ),
        "subgraph then_branch of node If_0 has two definitions of initializer w,",
    ),
    "branch over an initializer": (
        lambda: conditional(branch([N("Add", ["x", "k"], ["r"])], {"k": numbers(8)})),
        "subgraph then_branch of node If_0 defines k, which the graph around it defines too: give one of them another name",
    ),
    "branch over an input": (
        lambda: conditional(branch([N("Relu", ["a"], ["x"])])),
        "subgraph then_branch of node If_0 defines x, which the graph around it defines too",
    ),
    "body over an input": (
        lambda: looped(body("x", [N("Relu", ["x"], ["r"])])),
        "subgraph body of node Loop_0 defines x, which the graph around it defines too",
    ),
    "input and tensor of a body": (
        lambda: looped(body("c", [N("Relu", ["x"], ["c"], "again")])),
        "tensor c is written twice in subgraph body of node Loop_0, the second time by node again",
    ),
    "branch in a branch": (
        lambda: conditional(
            branch([N("If", ["flag"], ["r"], "If_1", then_branch=branch([N("Neg", ["x"], ["k"])]), else_branch=branch([RELU]))])
        ),
        "subgraph then_branch of node If_1 defines k, which the graph around it defines too",
    ),
}


@pytest.mark.parametrize("case", TWICE)
def test_what_is_defined_twice(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, words = TWICE[case]
    with pytest.raises(FormatError, match="^" + re.escape(words)):
        FORMAT.read(make())
    path = tmp_path / "m.onnx"
    path.write_bytes(make().SerializeToString())
    assert run(["merge", str(path), "-o", str(tmp_path / "out.onnx")]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith(f"decascade: {words}")
    assert err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_a_function_is_known_by_its_overload_too() -> None:
    functions = [function("f", [RELU]), function("f", [N("Neg", ["u"], ["v"])])]
    functions[1].overload = "other"
    assert ops(FORMAT.read(calling(*functions)))[0] == "[own::f]"
    functions[0].overload = "other"
    with pytest.raises(FormatError, match="the model has two definitions of local function own::f:other,"):
        FORMAT.read(calling(*functions))


def test_names_that_may_stand_twice() -> None:
    """Branches beside each other, a branch's result named as the node's, a body's value handed out twice, default values."""
    proto = conditional(branch([N("Relu", ["x"], ["chosen"])]), branch([N("Neg", ["x"], ["chosen"])]))
    proto.graph.input.append(info("bias", (4,)))
    proto.opset_import.append(helper.make_opsetid("ai.onnx", 17))
    assert ops(FORMAT.read(proto)) == ["[If]", "Conv", "Conv"]
    loop = body("c", [N("Relu", ["c"], ["r"])])
    loop.output.append(loop.output[1])
    proto = looped(loop)
    proto.graph.node[0].output.append("all")
    assert ops(FORMAT.read(proto))[0] == "[Loop]"


def test_a_live_ir_model() -> None:
    loaded = onnx_ir.serde.deserialize_model(good())
    loaded.graph[1].outputs[0].name = "t"
    loaded.graph.outputs[0].name = "t"
    with pytest.raises(FormatError, match="tensor t is written twice, the second time by node"):
        FORMAT.read(loaded)


def test_an_entry_of_external_data(tmp_path: Path) -> None:
    onnx.save(good(), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    proto = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    proto.graph.initializer[0].external_data.add(key="offset", value="4096")
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(FormatError, match="the data of a has an entry with one key twice, and nothing says which counts"):
        FORMAT.read(tmp_path / "m.onnx")


def test_subgraphs_within_subgraphs() -> None:
    def nested(depth: int) -> Any:
        inner = branch([N("Relu", ["x"], [f"r{depth}"])])
        for level in reversed(range(depth)):
            leaf = branch([N("Identity", ["x"], [f"e{level}"])])
            inner = branch([N("If", ["flag"], [f"r{level}"], f"If{level}", then_branch=inner, else_branch=leaf)])
        return inner

    assert ops(FORMAT.read(conditional(nested(8))))[0] == "[If]"
    deep = good()
    graph = deep.graph
    for level in range(70):
        node = graph.node.add(op_type="If", name=f"If{level}", input=["flag"], output=[f"r{level}"])
        graph = node.attribute.add(name="then_branch", type=5).g
    with pytest.raises(LimitExceededError, match="has subgraphs nested deeper than 64, which is the limit: flatten them"):
        FORMAT.read(deep)
