"""What a live module may bring along: modes, hooks, ties, parametrizations, code that cannot be traced, odd signatures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from decascade.api import merge
from decascade.cost import target_named
from decascade.errors import FormatError, UsageError
from decascade.formats.torch.format import FORMAT, read
from decascade.ir.interpret import run
from decascade.ir.ops import Activation, Affine, Conv, Foreign
from decascade.regions.merge import Options, merge_graph

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")

X = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
SHAPE = (1, 3, 8, 8)


def merged(module: Any, *, shape: Any = SHAPE) -> tuple[Any, Any, Any]:
    """Document, new graph and new module with every cascade merged."""
    document = read(module, shape)
    graph, _ = merge_graph(document.graph, Options(target=target_named("macs"), policy="always"))
    return document, graph, FORMAT.write(document, graph)


def same(module: Any, other: Any, x: np.ndarray[Any, Any] = X, name: str = "x") -> None:
    """Both give the same outputs, up to float32."""
    before, after = FORMAT.run(module, {name: x}), FORMAT.run(other, {name: x})
    assert list(before) == list(after)
    for key in before:
        np.testing.assert_allclose(after[key], before[key], rtol=0, atol=2e-6 * max(1.0, float(np.abs(before[key]).max())))


class Pair(nn.Module):
    """1×1 → 3×3 without padding: always one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 16, 1)
        self.norm = nn.BatchNorm2d(16)
        self.project = nn.Conv2d(16, 3, 3)

    def forward(self, x: Any) -> Any:
        return self.project(self.norm(self.expand(x)))


class Net(nn.Module):
    def __init__(self, *blocks: Any) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Any) -> Any:
        return self.act(self.blocks(x))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def convolutions(graph: Any) -> list[str]:
    return [node.name for node in graph.nodes if isinstance(node.op, Conv)]


def test_training_mode_is_read_as_eval_and_said() -> None:
    module = Pair().train()
    with torch.no_grad():
        module.norm.running_mean.normal_()
    document, _, new = merged(module)
    assert any(note.startswith("the model is in training mode; it was read as in eval mode") for note in document.notes)
    assert module.training
    assert module.norm.training
    assert new.training
    same(module, new)
    assert not read(module.eval()).notes


def test_mixed_modes_stay() -> None:
    module = Net(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)).train()
    module.blocks[2].eval()
    document = read(module)
    new = FORMAT.write(document, document.graph)
    modes = {name: part.training for name, part in module.named_modules()}
    assert {name: part.training for name, part in new.named_modules()} == modes


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.next = nn.Conv2d(4, 3, 3)

    def forward(self, x: Any) -> Any:
        y = self.conv(x)
        if y.shape[2] > 4:  # the line that the message must name
            y = self.next(y)
        return y


def test_untraceable_code_names_the_line_and_the_way_round() -> None:
    line = r"control flow \(test_torch_trace.py:\d+ in forward\)"
    words = rf"torch.fx cannot trace Untraceable: .*{line}.*input shape.*torch.onnx.export"
    with pytest.raises(FormatError, match=words) as caught:
        read(Untraceable())
    assert "\n" not in str(caught.value)


def test_untraceable_code_goes_through_export_with_a_shape() -> None:
    module = Untraceable()
    document, graph, new = merged(module)
    assert any("read through torch.export" in note for note in document.notes)
    assert len(convolutions(document.graph)) == 2
    assert len(convolutions(graph)) == 1
    same(module, new)
    assert FORMAT.run(new, {"x": np.concatenate([X, X])})["output"].shape[0] == 4


class OnValues(nn.Module):
    def forward(self, x: Any) -> Any:
        return x + 1 if x.sum() > 0 else x


def test_untraceable_for_both() -> None:
    words = r"neither torch.fx \(.*\) nor torch.export \(.*\) can trace OnValues: rewrite that line"
    with pytest.raises(FormatError, match=words):
        read(OnValues(), SHAPE)


def test_untraceable_with_unknown_sizes() -> None:
    with pytest.raises(FormatError, match=r"torch.export needs every size of the input shape"):
        read(Untraceable(), (None, 3, None, None))


def test_block_that_cannot_be_traced_is_left_whole() -> None:
    module = Net(Pair(), OnValues(), Pair())
    document, graph, new = merged(module)
    assert any(n.startswith("blocks.1 is left whole: its code cannot be traced") for n in document.notes)
    (whole,) = [node for node in document.graph.nodes if isinstance(node.op, Foreign)]
    assert whole.origin == ("blocks.1",)
    assert whole.op.kind == "OnValues"
    assert len(convolutions(graph)) == 2
    same(module, new)


def test_export_looks_into_such_a_block() -> None:
    module = Net(Untraceable())
    assert any("give an input shape" in note for note in read(module).notes)
    document, graph, new = merged(module)
    assert len(convolutions(graph)) == 1
    assert any("read through torch.export" in note for note in document.notes)
    same(module, new)


def test_hook_on_a_layer_pins_it() -> None:
    module = Net(Pair(), nn.Conv2d(3, 4, 1))
    seen = list[Any]()
    module.blocks[0].project.register_forward_hook(lambda m, args, out: seen.append(out.shape) or out * 2)
    document, graph, new = merged(module)
    node = next(node for node in document.graph.nodes if node.origin == ("blocks.0.project",))
    assert node.pinned.startswith("it has a forward hook (<lambda>)")
    assert any(note.startswith("blocks.0.project is left whole: it has a forward hook") for note in document.notes)
    assert any(kept is node for kept in graph.nodes)
    assert not seen  # reading and merging did not run it
    same(module, new)
    assert len(seen) == 2
    expected = run(document.graph, {"x": X})["output"]
    np.testing.assert_allclose(FORMAT.run(module, {"x": X})["output"], expected, atol=1e-5)


def test_pre_hook_on_a_block_keeps_the_block() -> None:
    module = Net(Pair(), Pair())
    module.blocks[1].register_forward_pre_hook(lambda m, args: (args[0] + 1,))
    document, graph, new = merged(module)
    assert {node.origin for node in document.graph.nodes if node.pinned} == {("blocks.1",)}
    assert len(convolutions(graph)) == 1
    same(module, new)


def test_hook_on_the_model_is_refused() -> None:
    module = Pair()
    module.register_forward_hook(print)
    with pytest.raises(FormatError, match=r"Pair itself has forward hooks \(print\).*handle.remove\(\)"):
        read(module)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.shared = nn.Conv2d(8, 8, 3)
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, x: Any) -> Any:
        y = F.relu(self.shared(self.first(x)))
        return self.last(F.relu(self.shared(y)))


def test_module_called_twice() -> None:
    module = Twice()
    document, graph, new = merged(module)
    shared = [node for node in document.graph.nodes if node.origin == ("shared",)]
    assert len({node.name for node in shared}) == 2
    assert len(convolutions(graph)) == 3
    assert "shared.weight" in new.state_dict()
    assert torch.equal(new.shared.weight, module.shared.weight)
    same(module, new)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 3, 3)
        self.b = nn.Conv2d(3, 3, 3)
        self.c = nn.Conv2d(3, 3, 3)
        self.b.weight = self.a.weight
        self.c.weight = self.a.weight

    def forward(self, x: Any) -> Any:
        return self.c(F.relu(self.b(F.relu(self.a(x)))))


def test_tied_parameters_stay_tied_and_are_not_shared_with_the_original() -> None:
    module = Tied()
    document = read(module)
    new = FORMAT.write(document, document.graph)
    assert new.a.weight is new.b.weight
    assert new.a.weight is not module.a.weight
    same(module, new)


def test_merging_a_tied_layer_leaves_the_other() -> None:
    module = Net(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3))
    module.blocks[3].weight = module.blocks[1].weight
    _, graph, new = merged(module)
    assert len(convolutions(graph)) == 2
    assert torch.equal(new.blocks.get_submodule("3").weight, module.blocks[1].weight)
    same(module, new)


def test_parametrizations() -> None:
    module = Pair()
    nn.utils.parametrizations.weight_norm(module.expand)
    nn.utils.parametrizations.spectral_norm(module.project)
    document, graph, new = merged(module)
    assert "expand is parametrized; its effective weight in eval mode was read" in document.notes
    assert len(convolutions(graph)) == 1
    same(module.eval(), new)
    kept = FORMAT.write(document, document.graph)
    assert "expand.parametrizations.weight.original0" in kept.state_dict()
    same(module, kept)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_weight_norm_by_hook_is_pinned() -> None:
    module = Pair()
    nn.utils.weight_norm(module.expand)
    document, _, new = merged(module)
    (pinned,) = [node for node in document.graph.nodes if node.pinned]
    assert pinned.origin == ("expand",)
    assert "WeightNorm" in pinned.pinned
    same(module, new)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_parameters_that_are_not_finite(value: float) -> None:
    module = Pair()
    with torch.no_grad():
        module.norm.running_mean[3] = value
    with pytest.raises(FormatError, match=r"norm.running_mean has 1 of 16 values that are NaN or infinite"):
        read(module)


def test_lazy_and_meta_parameters() -> None:
    with pytest.raises(FormatError, match=r"on the meta device and has no values: load the weights"):
        read(Pair().to("meta"))
    with pytest.raises(FormatError, match=r"lazy parameter without a shape: run the model once"):
        read(Net(nn.LazyConv2d(3, 1)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused() -> None:
    with pytest.raises(FormatError, match=r"is TorchScript, which torch.fx cannot read: pass the Python module"):
        read(torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 1))))


def test_wrappers_are_taken_off() -> None:
    module = Pair()
    for wrapped in (nn.DataParallel(module), torch.compile(module, backend="eager")):
        document = read(wrapped)
        assert any(note.endswith("was taken off: the model inside it was read") for note in document.notes)
        assert "expand.weight" in FORMAT.write(document, document.graph).state_dict()


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(2, 4, 1)

    def forward(self, x: Any, other: Any, mask: Any = None, scale: float = 2.0) -> Any:
        y = self.a(x) + self.b(other)
        return y * scale if mask is None else y * mask


def test_optional_arguments_keep_their_defaults() -> None:
    module = TwoInputs()
    document = read(module)
    assert document.graph.inputs == ("x", "other")
    assert "optional arguments keep their defaults: mask, scale" in document.notes
    inputs = {"x": X, "other": X[:, :2]}
    new = FORMAT.write(document, document.graph)
    np.testing.assert_array_equal(FORMAT.run(module, inputs)["output"], FORMAT.run(new, inputs)["output"])
    np.testing.assert_allclose(run(document.graph, inputs)["output"], FORMAT.run(module, inputs)["output"], atol=1e-6)


def test_input_shapes_by_name_and_in_order() -> None:
    for given in ([(1, 3, 8, 8), (1, 2, 8, 8)], {"other": (1, 2, 8, 8), "x": (1, 3, 8, 8)}):
        graph = read(TwoInputs(), given).graph
        assert graph.shape("x") == ("N", 3, 8, 8)
        assert graph.shape("other") == ("N", 2, 8, 8)
    assert read(TwoInputs()).graph.shape("x") == ("N", 3, "H", "W")
    assert read(Pair(), (3, 8, 8)).graph.shape("x") == ("N", 3, 8, 8)  # without the batch


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([(1, 3, 8, 8)], r"1 input shapes for the 2 inputs x, other: give one per input"),
        ({"y": (1, 3, 8, 8)}, r"input_shape names y, the inputs are x, other"),
        ([(1, 3, 8, 8), (1, 2, 0, 8)], r"has the size 0: sizes are 1 or more"),
    ],
)
def test_bad_input_shapes(given: Any, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        read(TwoInputs(), given)


class Variadic(nn.Module):
    def forward(self, *xs: Any) -> Any:
        return sum(xs)


class Keyword(nn.Module):
    def forward(self, *, x: Any) -> Any:
        return x + 1


def test_signatures_without_named_inputs() -> None:
    with pytest.raises(FormatError, match=r"forward takes no named argument: wrap the model"):
        read(Variadic())
    with pytest.raises(FormatError, match=r"forward needs keyword arguments \(x\): wrap the model"):
        read(Keyword())


@dataclass
class Result:
    y: Any


class GivesResult(nn.Module):
    def forward(self, x: Any) -> Any:
        return Result(x + 1)


class GivesConstant(nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.zeros(3)


class GivesSize(nn.Module):
    def forward(self, x: Any) -> Any:
        return x + 1, x.size(0)


def test_outputs_that_are_no_tensors() -> None:
    with pytest.raises(FormatError, match=r"forward returns a Result: return tensors"):
        read(GivesResult())
    with pytest.raises(FormatError, match=r"is no tensor that depends on the input|returns no tensor"):
        read(GivesConstant())
    with pytest.raises(FormatError, match=r"output .* is no tensor that depends on the input"):
        read(GivesSize())


class Nested(nn.Module):
    def forward(self, x: Any) -> Any:
        y = F.relu(x)
        return {"a": y, "b": [x, (y, None)]}


def test_nested_outputs_keep_their_structure() -> None:
    document = read(Nested(), SHAPE)
    new = FORMAT.write(document, document.graph)
    result = new(torch.tensor(X))
    assert set(result) == {"a", "b"}
    assert torch.equal(result["b"][0], torch.tensor(X))
    assert result["b"][1][1] is None
    same(Nested(), new)
    assert len(set(document.graph.outputs)) == 3


class InPlace(nn.Module):
    """Reads x after relu_ has changed it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True)

    def forward(self, x: Any) -> Any:
        y = self.conv(x)
        z = self.relu(y)
        z = self.conv(z)
        z += y
        return z.add_(1.0).clamp_(max=2.0), y


def test_in_place_operations_change_what_is_read_later() -> None:
    module = InPlace()
    document, _, new = merged(module)
    same(module, new)
    same(module, FORMAT.write(document, document.graph))
    expected = FORMAT.run(module, {"x": X})
    found = run(document.graph, {"x": X})
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6)


class Alias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Any) -> Any:
        y = self.conv(x)
        flat = y.view(y.shape[0], -1)
        y.relu_()
        return y, flat


def test_view_of_a_tensor_that_is_changed_in_place() -> None:
    with pytest.raises(FormatError, match=r"relu_ changes conv in place, and view, which shares its memory, is read later"):
        read(Alias())
    document = read(Alias(), SHAPE)  # torch.export can make it functional
    found = run(document.graph, {"x": X})
    assert found["output_1"].min() >= 0


class Assigns(nn.Module):
    """Overwrites a channel, a frame and a corner."""

    def __init__(self, corner: bool) -> None:
        super().__init__()
        self.corner = corner

    def forward(self, x: Any) -> Any:
        y = x * 2
        y[:, 0] = 0
        y[:, :, 1:-1] = x.mean()
        if self.corner:
            y[:, :, :2, :2] = 1.0
        return y


def test_assignments_become_functions() -> None:
    module = Assigns(False)
    document = read(module)
    expected = FORMAT.run(module, {"x": X})["output"]
    np.testing.assert_allclose(run(document.graph, {"x": X})["output"], expected, atol=1e-6)
    np.testing.assert_array_equal(FORMAT.run(FORMAT.write(document, document.graph), {"x": X})["output"], expected)


def test_assignment_at_two_indices_needs_export() -> None:
    with pytest.raises(FormatError, match=r"setitem_2 assigns into a tensor at .*: build it with torch.cat or torch.where"):
        read(Assigns(True))
    found = run(read(Assigns(True), SHAPE).graph, {"x": X})["output"]
    np.testing.assert_allclose(found, FORMAT.run(Assigns(True), {"x": X})["output"], atol=1e-6)


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.ones(1))

    def forward(self, x: Any) -> Any:
        self.seen.add_(1)
        return x * self.seen


def test_buffer_that_changes_is_refused() -> None:
    with pytest.raises(FormatError, match=r"add_ changes the buffer seen as the model runs: keep it constant"):
        read(Counts())


class Custom(nn.Conv2d):
    """Only sets arguments."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 4, 3, padding=1)


class Scaled(nn.Conv2d):
    def forward(self, x: Any) -> Any:
        return super().forward(x) * 2


class CheckedNorm(nn.BatchNorm2d):
    def forward(self, x: Any) -> Any:
        return super().forward(x) + 1


def test_subclasses_of_torch_modules() -> None:
    module = Net(Custom(3), Scaled(4, 4, 1), CheckedNorm(4))
    document = read(module)
    kinds = [type(node.op) for node in document.graph.nodes]
    assert kinds == [Conv, Conv, Affine, Foreign, Activation]
    expected = FORMAT.run(module, {"x": X})["output"]
    np.testing.assert_allclose(run(document.graph, {"x": X})["output"], expected, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_element_types(dtype: str) -> None:
    module = Net(Pair(), nn.Conv2d(3, 4, 1, bias=False)).to(getattr(torch, dtype))
    document, graph, new = merged(module)
    assert document.graph.tensors["x"].dtype == dtype
    assert graph.tensors["output"].dtype == dtype
    assert {p.dtype for p in new.parameters()} == {getattr(torch, dtype)}
    unit = float(torch.finfo(getattr(torch, dtype)).eps)
    expected = FORMAT.run(module, {"x": X})["output"]
    assert expected.dtype == (np.float64 if dtype == "float64" else np.float32)
    np.testing.assert_allclose(FORMAT.run(new, {"x": X})["output"], expected, atol=32 * unit)


def test_reading_changes_nothing() -> None:
    module = Net(Pair(), InPlace().conv, nn.Dropout(0.5)).train()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    _, _, new = merged(module)
    with torch.no_grad():
        for tensor in (*new.parameters(), *new.buffers()):
            tensor.zero_()
    assert all(torch.equal(state[name], tensor) for name, tensor in module.state_dict().items())
    assert all(part.training for part in module.modules())


def test_kernels_computed_from_parameters() -> None:
    class Blended(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.Parameter(torch.randn(4))
            self.out = nn.Conv2d(4, 2, 1)

        def forward(self, x: Any) -> Any:
            weight = torch.einsum("oihw,o->oihw", self.a, torch.sigmoid(self.b))
            return self.out(F.conv2d(x, weight))

    module = Blended()
    _, graph, new = merged(module)
    assert len(convolutions(graph)) == 1
    same(module, new)


def test_reading_does_not_import_torch_for_ownership() -> None:
    assert not FORMAT.owns(object())
    assert FORMAT.owns(Pair())
    assert FORMAT.owns(torch.export.export(Pair().eval(), (torch.zeros(2, 3, 8, 8),)))
    with pytest.raises(FormatError, match=r"int is no PyTorch model"):
        read(3)


class Words(nn.Module):
    """Whole numbers in: looked up, convolved, and what comes out goes through complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.first, self.second = nn.Embedding(20, 8), nn.Conv1d(8, 32, 5, padding=2), nn.Conv1d(32, 8, 1)

    def forward(self, x: Any) -> Any:
        y = self.second(self.first(self.table(x).transpose(1, 2)))
        return y, torch.fft.rfft(y).abs()


def test_whole_numbers_and_complex_ones() -> None:
    torch.manual_seed(0)
    net = Words().eval()
    result = merge(net, input_shape=(None, 24))
    assert result.report.cascades[0].decision == "merged"
    x = torch.randint(0, 20, (3, 24))
    for found, expected in zip(result.model(x), net(x), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(UsageError, match=r"input x has no known shape: give one \(input_shape, --input-shape\)"):
        merge(net)
