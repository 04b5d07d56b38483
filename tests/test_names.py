"""A model may use the very names that we should give: nothing new may be taken for something of the user's."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import decascade as dc
from decascade.ir.graph import Graph, Node, Tensor
from decascade.ir.names import Names
from decascade.ir.ops import Identity

SOURCES = Path(dc.__file__).parent
LIKELY = (
    "first/linear", "first/rest", "first/kept", "first/moved", "first/swapped", "second/linear", "second/rest",
    "second/sum", "second_merged", "second_merged/out", "second_merged_2", "second_split/first", "second/rank/out",
    "third_merged", "third_merged/out", "third_merged_2", "third_merged_weight", "third_merged_bias", "decascade",
    "outside_input_range", "outside_input_range/all", "outside_input_range_2", "outside_input_range/x_above",
    "merged", "out", "sketch", "sketch/out", "meta", "graph", "code",
)
WAYS: dict[str, dict[str, Any]] = {
    "exact": {}, "fewest": {"policy": "always"}, "proven": {"input_range": (0, 1)},
    "guarded": {"input_range": (0, 1), "guard": True},
}


def weights() -> list[tuple[np.ndarray, np.ndarray]]:
    """Three convolutions: of the twelve channels of the first nine are positive on [0, 1], one is always zero."""
    rng = np.random.default_rng(0)
    first, bias = rng.normal(size=(12, 1, 3, 3)), rng.normal(size=12) / 4
    first[:9], bias[:9] = abs(first[:9]), 0.1
    first[9], bias[9] = -abs(first[9]), -0.1
    shapes = ((16, 12, 3, 3), (4, 16, 1, 1))
    others = [(rng.normal(size=s) / 8, rng.normal(size=s[0])) for s in shapes]
    return [(w.astype(np.float32), b.astype(np.float32)) for w, b in [(first, bias), *others]]


def in_onnx(names: tuple[str, ...], initializers: bool) -> Any:
    """The net, and beside it a chain whose tensors and nodes, or whose initializers, have these names."""
    onnx = pytest.importorskip("onnx")
    make, array = onnx.helper.make_node, onnx.numpy_helper.from_array
    nodes, stored, value = list[Any](), [array(np.float32(1), "one")], "x"
    for (weight, bias), name in zip(weights(), ("first", "second", "third"), strict=True):
        stored += [array(weight, f"{name}.w"), array(bias, f"{name}.b")]
        pad = weight.shape[-1] // 2
        nodes.append(make("Conv", [value, f"{name}.w", f"{name}.b"], [name], name, pads=[pad] * 4))
        value = name
        if name == "first":
            nodes.append(make("Relu", [name], ["act"], "act"))
            value = "act"
    beside = "x"
    for index, name in enumerate(names):
        stored += [array(np.float32(index), name)] if initializers else []
        output = f"beside{index}" if initializers else name
        nodes.append(make("Add", [beside, name if initializers else "one"], [output], name))
        beside = output
    nodes.append(make("Identity", [beside], ["y"], "last"))
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(nodes, "g", [info("x", 1, [1, 1, 12, 12])],
                                   [info("third", 1, None), info("y", 1, None)], stored)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def in_keras(names: tuple[str, ...], inline: bool) -> Any:
    keras = pytest.importorskip("keras")
    layers = keras.layers
    x = keras.Input((12, 12, 1), name="x")
    first = layers.Conv2D(12, 3, padding="same", activation="relu" if inline else None, name="first")(x)
    made = first if inline else layers.ReLU(name="act")(first)
    y = layers.Conv2D(16, 3, padding="same", name="second")(made)
    y = layers.Conv2D(4, 1, name="third")(y)
    beside, inner = x, keras.Input((12, 12, 1), name="inner_x")
    z = inner
    for index, name in enumerate(names):
        beside = layers.Rescaling(1.0, offset=float(index), name=name)(beside)
        z = layers.Rescaling(1.0, offset=0.5, name=name)(z)
    outputs = [y, beside]
    if names:
        outputs.append(keras.Model(inner, z, name="nested")(x))
    model = keras.Model(x, outputs)
    for (weight, bias), name in zip(weights(), ("first", "second", "third"), strict=True):
        model.get_layer(name).set_weights([weight.transpose(2, 3, 1, 0), bias])
    return model


def in_torch(names: tuple[str, ...], functional: bool) -> Any:
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for (weight, bias), name in zip(weights(), ("first", "second", "third"), strict=True):
                conv = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[-1], padding=weight.shape[-1] // 2)
                conv.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
                self.add_module(name, conv)
            self.act = nn.ReLU()
            for index, name in enumerate(names):
                if index % 2:
                    self.add_module(name, nn.Tanh())
                else:
                    self.register_parameter(name, nn.Parameter(torch.full((1,), float(index))))

        def forward(self, x: Any) -> Any:
            made = self.first(x)
            made = torch.relu(made) if functional else self.act(made)
            beside = x
            for index, name in enumerate(names):
                part = getattr(self, name)
                beside = part(beside) if index % 2 else beside + part
            return {"third": self.third(self.second(made)), "outside_input_range": beside}

    return Net().eval()


def held(model: Any, way: str, shape: Any = None) -> Any:
    """The merged model, which verifies."""
    given = WAYS[way]
    result = dc.merge(model, input_shape=shape, **given) if shape else dc.merge(model, **given)
    assert result.report.verification is not None
    assert result.report.verification.same
    assert (result.report.layers.after < result.report.layers.before) or way != "fewest"
    if "input_range" in given:
        assert any(c.tier == "proven" and c.decision == "merged" for c in result.report.cascades)
    return result


def made_in_onnx(model: Any) -> set[str]:
    graph = model.graph
    return {n.name for n in graph.node} | {o for n in graph.node for o in n.output} | {t.name for t in graph.initializer}


@pytest.mark.parametrize("initializers", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_an_onnx_model_that_uses_our_names(way: str, initializers: bool) -> None:
    plain = in_onnx((), initializers)
    ours = made_in_onnx(held(plain, way).model) - made_in_onnx(plain)
    assert ours, "something is made"
    hostile = in_onnx(tuple(sorted({*LIKELY, *ours})), initializers)
    result = held(hostile, way)
    x = np.random.default_rng(1).random((1, 1, 12, 12), np.float32)
    before, after = (run_onnx(m, x) for m in (hostile, result.model))
    for a, b in zip(before, after[:2], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    if way == "guarded":
        assert np.max(after[2]) == 0
        assert np.min(run_onnx(result.model, x + 1)[2]) > 0


def run_onnx(model: Any, x: np.ndarray) -> Any:
    session = pytest.importorskip("onnxruntime").InferenceSession(model.SerializeToString())
    return session.run(None, {"x": x})


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_keras_model_that_uses_our_names(way: str, inline: bool) -> None:
    plain = in_keras((), inline)
    known = {layer.name for layer in plain.layers}
    ours = {layer.name for layer in held(plain, way).model.layers} - known
    hostile = in_keras(tuple(sorted({*(n.replace("/", "_") for n in LIKELY), *ours})), inline)
    result = held(hostile, way)
    x = np.random.default_rng(1).random((1, 12, 12, 1), np.float32)
    for a, b in zip(hostile(x), result.model(x), strict=False):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-4)
    assert len(set(result.model.output_names)) == len(result.model.outputs)


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_pytorch_model_that_uses_our_names(way: str, functional: bool) -> None:
    torch = pytest.importorskip("torch")
    plain = in_torch((), functional)
    made = held(plain, way, (1, 1, 12, 12)).model
    ours = {name for name, _ in (*made.named_modules(), *made.named_parameters(), *made.named_buffers())}
    ours = {n for n in (*ours, *(node.name for node in made.graph.nodes)) if n and "." not in n and not hasattr(plain, n)}
    wanted = (n.replace("/", "_") for n in LIKELY)
    hostile = in_torch(tuple(sorted({*wanted, *ours} - {"x", "output", "graph", "code", "meta"})), functional)
    result = held(hostile, way, (1, 1, 12, 12))
    x = torch.rand(1, 1, 12, 12)
    with torch.no_grad():
        before, after = hostile(x), result.model(x)
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, atol=1e-4, rtol=1e-4)
    assert len(after) == len(before) + (way == "guarded")


def test_some_channels_of_an_inline_activation_are_linear() -> None:
    """The bypass once took the name that the reader gives what is before an inline activation."""
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = keras.Input((28, 28, 1))
    y = layers.Conv2D(8, 3, padding="same", activation="relu", name="conv1")(x)
    model = keras.Model(x, layers.Conv2D(16, 3, padding="same", activation="relu", name="conv2")(y))
    stored = model.get_weights()
    stored[0][..., :2] = abs(stored[0][..., :2])
    model.set_weights(stored)
    result = dc.merge(model, input_range=(0, 1))
    assert result.report.verification is not None
    assert result.report.verification.same


# -- the one place


def a_graph() -> Graph:
    node = Node("n", Identity(), ("x",), ("y",), ("layer",))
    return Graph((node,), ("x",), ("y",), {n: Tensor(n, (1, 1)) for n in "xy"}, reserved=frozenset({"w"}))


@pytest.mark.parametrize("taken", ["n", "x", "y", "layer", "w"])
def test_whatever_a_model_names_is_taken(taken: str) -> None:
    names = Names.of(a_graph())
    assert [names.node(taken), names.tensor(taken), names.fresh(taken), names.node(taken)] == [
        f"{taken}_2", f"{taken}_2", f"{taken}_3", f"{taken}_4"]  # fmt: skip


def test_a_free_name_is_given_as_it_is_and_once() -> None:
    names = Names.of(a_graph())
    assert [names.node("a"), names.tensor("a"), names.node("a"), names.fresh("b"), names.tensor("b")] == [
        "a", "a", "a_2", "b", "b_2"]  # fmt: skip
    assert names.own("n") == "n"
    assert names.own("n") == "n_2"
    trial = names.trial()
    assert trial.node("c") == "c"
    assert names.node("c") == "c"


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    return (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef))


def is_joined(value: ast.AST | None, joined: set[str]) -> bool:
    """Whether a name is put together: in this expression, or in a variable that it reads."""
    match value:
        case ast.JoinedStr() | ast.BinOp():
            return True
        case ast.Name(id=name):
            return name in joined
        case ast.IfExp(body=a, orelse=b):
            return is_joined(a, joined) or is_joined(b, joined)
        case _:
            return False


def faults(tree: ast.AST) -> Iterator[int]:
    """Lines where a node or a tensor gets a name that nobody was asked for, or a loop looks for a free one."""
    for function in functions(tree):
        joined = {t.id for n in ast.walk(function) if isinstance(n, ast.Assign) and isinstance(n.value, ast.JoinedStr)
                  for t in n.targets if isinstance(t, ast.Name)}  # fmt: skip
        for call in (n for n in ast.walk(function) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)):
            named = [k.value for k in call.keywords if k.arg == "name"]
            if call.func.id in ("Node", "Tensor") and is_joined(call.args[0] if call.args else None, joined):
                yield call.lineno
            if call.func.id in ("Node", "Tensor", "replace") and any(is_joined(n, joined) for n in named):
                yield call.lineno
        for loop in (n for n in ast.walk(function) if isinstance(n, ast.While)):
            if any(isinstance(n, ast.In) for n in ast.walk(loop.test)) and any(
                isinstance(n, ast.JoinedStr) for part in (loop.test, *loop.body) for n in ast.walk(part)
            ):
                yield loop.lineno


@pytest.mark.parametrize("line", [
    'Node(f"{a}/b", op)', 'Tensor(a + "/b", None)', 'replace(n, name=f"{a}/b")', 'n = f"{a}/b"; Node(n, op)',
    'while a in taken:\n  a = f"{a}_2"',
])  # fmt: skip
def test_the_search_finds_a_name_that_is_put_together(line: str) -> None:
    body = "\n ".join(line.split("\n"))
    assert list(faults(ast.parse(f"def f():\n {body}")))


def test_no_module_puts_a_name_together() -> None:
    found = {f"{path.relative_to(SOURCES)}:{line}" for path in sorted(SOURCES.rglob("*.py"))
             if path != SOURCES / "ir" / "names.py" for line in faults(ast.parse(path.read_text()))}  # fmt: skip
    assert not found
