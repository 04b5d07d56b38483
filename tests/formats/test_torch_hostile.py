"""Hostile .pt2 files: nothing beyond the lists is looked up, no room is made for sizes that are only stated, nothing runs."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from decascade.errors import FormatError, LimitExceededError, UnsafeModelError
from decascade.formats.torch import archive, growth, stored
from decascade.formats.torch.archive import load_program
from decascade.formats.torch.operators import OPERATORS
from decascade.formats.torch.sizes import is_expression
from decascade.limits import Limits

torch = pytest.importorskip("torch")
nn = torch.nn
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:No complete tensor found:UserWarning"),
]


class Net(nn.Module):
    """A convolution, an empty buffer, a slice, an expanded buffer, and a call that states sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("empty", torch.zeros(0))
        self.register_buffer("cut", torch.arange(10.0)[2:5])
        self.register_buffer("wide", torch.ones(1).expand(5))

    def forward(self, x: Any) -> Any:
        return self.conv(x).repeat(1, 1, 2, 2) + self.cut.sum() + self.wide.sum()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("torch") / "net.pt2"
    torch.export.save(torch.export.export(Net().eval(), (torch.zeros(2, 3, 6, 6),)), path)
    return path


def changed(source: Path, target: Path, ending: str, change: Callable[[Any], Any]) -> Path:
    """The archive with the member whose name ends so changed: a JSON value in place, bytes by what is given back."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith(ending) and ending.endswith(".json"):
                value = json.loads(data)
                change(value)
                data = json.dumps(value).encode()
            elif name.endswith(ending):
                data = change(data)
            new.writestr(name, data)
    return target


def test_good_file_with_slices_and_empty_buffers(saved: Path) -> None:
    assert load_program(saved).graph_signature.user_inputs == ("x",)


@pytest.mark.parametrize(
    "name",
    ["torch.ops.aten.as_strided.default", "torch.ops.aten.set_.source_Tensor", "torch.ops.aten.from_file.default", "os.system",
     "torch.ops.aten.relu.out", "torch.ops.evil.relu.default", "_operator.pow", "torch.ops.aten.relu", "_operator.attrgetter"],
)  # fmt: skip
def test_operation_that_is_not_listed(name: str, saved: Path, tmp_path: Path) -> None:
    def change(model: Any) -> None:
        model["graph_module"]["graph"]["nodes"][0]["target"] = name

    with pytest.raises(UnsafeModelError, match=rf"an operator that is not one of PyTorch's own for plain networks, '{name}'"):
        load_program(changed(saved, tmp_path / "evil.pt2", "models/model.json", change))


def test_every_listed_operation_is_torchs_own() -> None:
    for name in OPERATORS:
        if name.startswith("torch.ops."):
            _, _, space, packet, overload = name.split(".")
            schema = getattr(getattr(getattr(torch.ops, space), packet), overload)._schema
            assert not any(argument.is_out for argument in schema.arguments), name


@pytest.mark.parametrize("key", ["as_operator", "as_custom_obj", "as_graph"])
def test_argument_that_would_be_looked_up(key: str, saved: Path, tmp_path: Path) -> None:
    def change(model: Any) -> None:
        model["graph_module"]["graph"]["nodes"][0]["inputs"][0]["arg"] = {key: "torch.ops.aten.relu.default"}

    with pytest.raises(UnsafeModelError, match="an argument that is no plain value"):
        load_program(changed(saved, tmp_path / "evil.pt2", "models/model.json", change))


def _meta(tensor: str, **values: Any) -> Callable[[Any], None]:
    def change(table: Any) -> None:
        table["config"][tensor]["tensor_meta"] |= values

    return change


def _ints(*values: int) -> list[dict[str, int]]:
    return [{"as_int": value} for value in values]


STORED: dict[str, tuple[Callable[[Any], None], str]] = {
    "zeros": (_meta("empty", sizes=_ints(1 << 20)), r"tensor empty takes 4,194,304 bytes of weight_\d, which holds 0"),
    "longer": (_meta("conv.bias", sizes=_ints(5)), r"tensor conv.bias takes 20 bytes of weight_\d, which holds 16"),
    "stride": (_meta("conv.bias", strides=_ints(9)), r"tensor conv.bias takes 112 bytes of weight_\d, which holds 16"),
    "offset": (_meta("cut", storage_offset={"as_int": 8}), r"tensor cut takes 44 bytes of weight_\d, which holds 40"),
    "negative": (_meta("conv.bias", sizes=_ints(-1)), r"has no usable sizes \(-1 is no size\)"),
    "sparse": (_meta("conv.bias", layout=1), r"has no usable sizes \(layout 1 is not strided\)"),
    "symbol": (_meta("conv.bias", sizes=[{"as_expr": {"expr_str": "s0"}}]), "has no usable sizes"),
    "no meta": (lambda table: table["config"]["conv.bias"].update(tensor_meta=None), "has no usable sizes"),
    "device": (_meta("conv.bias", device={"type": "meta", "index": None}), "on no usual device"),
    "lost": (lambda table: table["config"]["conv.bias"].update(path_name="weight_99"), "lacks weight_99, in which conv.bias"),
    "dtype": (_meta("conv.bias", dtype=8), r"tensor conv.bias takes 32 bytes of weight_\d, which holds 16"),
}


@pytest.mark.parametrize("row", STORED)
def test_stored_tensor_that_does_not_fit_its_record(row: str, saved: Path, tmp_path: Path) -> None:
    change, words = STORED[row]
    with pytest.raises(FormatError, match=words):
        load_program(changed(saved, tmp_path / "evil.pt2", "model_weights_config.json", change))


@pytest.mark.parametrize("values", [{"sizes": _ints(1 << 40)}, {"sizes": _ints(1 << 40), "strides": _ints(0)}])
def test_stored_tensor_beyond_the_limit(values: dict[str, Any], saved: Path, tmp_path: Path) -> None:
    with pytest.raises(LimitExceededError, match=r"tensor wide takes 4,398,046,511,104 bytes, .* limit \(unpacked_bytes\)"):
        load_program(changed(saved, tmp_path / "evil.pt2", "model_weights_config.json", _meta("wide", **values)))


def test_many_views_of_one_record_are_counted(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "LIMITS", Limits(unpacked_bytes=450))
    with pytest.raises(LimitExceededError, match=r"states 480 bytes of weights, 450 are the limit"):
        load_program(saved)


def test_members_that_unpack_to_too_much(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "LIMITS", Limits(unpacked_bytes=1000))
    with pytest.raises(LimitExceededError, match=r"unpacks to [\d,]+ bytes, 1,000 are the limit \(unpacked_bytes\)"):
        load_program(saved)
    monkeypatch.setattr(archive, "LIMITS", Limits(config_bytes=1000))
    with pytest.raises(LimitExceededError, match=r"config.json of [\d,]+ bytes, 1,000 are the limit \(config_bytes\)"):
        load_program(saved)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_member_twice(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "twice.pt2"
    path.write_bytes(saved.read_bytes())
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(file.namelist()[0], b"")
    with pytest.raises(UnsafeModelError, match="has two members of one name"):
        load_program(path)


def _repeats(*values: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        node = next(n for n in model["graph_module"]["graph"]["nodes"] if "repeat" in n["target"])
        node["inputs"][1]["arg"]["as_ints"] = list(values)

    return change


@pytest.mark.parametrize("values", [(1 << 40, 1, 1, 1), (1 << 20, 1 << 20, 1, 1)])
def test_sizes_in_arguments(values: tuple[int, ...], saved: Path, tmp_path: Path) -> None:
    with pytest.raises(LimitExceededError, match=r"\(limit elements\)"):
        load_program(changed(saved, tmp_path / "evil.pt2", "models/model.json", _repeats(*values)))


def test_operations_that_grow_a_tensor(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(LimitExceededError, match=r"repeat \(aten.repeat.default\) makes a tensor of 128,000,000,000 bytes"):
        load_program(changed(saved, tmp_path / "evil.pt2", "models/model.json", _repeats(1, 1000, 1000, 250)))


def test_growth_in_steps_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Grows(nn.Module):
        def forward(self, x: Any) -> Any:
            return x.repeat(10).repeat(10).repeat(10)

    program = torch.export.export(Grows(), (torch.zeros(10),))
    growth.check_growth(program, "net", "repair")
    monkeypatch.setattr(growth, "LIMITS", Limits(unpacked_bytes=10_000))
    with pytest.raises(LimitExceededError, match=r"net: repeat_2 \(aten.repeat.default\) makes a tensor of 40,000"):
        growth.check_growth(program, "net", "repair")


@pytest.mark.parametrize(
    "text",
    ["Pow(Symbol('s0', positive=True, integer=True), Integer(2))", "Max(1, s0 // 2 + s1 % 3)", "-s0*(s1 - 1)",
     "FloorDiv(Add(Symbol('s53', positive=True, integer=True), Integer(-1)), Integer(2))"],
)  # fmt: skip
def test_expressions_that_torch_writes(text: str) -> None:
    assert is_expression(text)


@pytest.mark.parametrize(
    "text",
    ["9**9**9", "Pow(Integer(9), Integer(9))", "Pow(s0, Integer(99))", "Pow(Pow(s0, 4), 4)", "Integer(99999999999)",
     "99999999999",      "Symbol('os')", "Symbol('s0', commutative=True)", "s0(1)", "1(2)", "(" * 200 + "s0" + ")" * 200,
     "s0 s1", "s0 +",
     "", "Max()", "s0/2", "Float('1e9')", "Symbol", "Where(1)", "+".join(["s0"] * 2000), "\u0661", "s\u0661"],
)  # fmt: skip
def test_expressions_that_never_reach_torch(text: str) -> None:
    assert not is_expression(text)


CANARY = """
import sys
from pathlib import Path
import torch, torch.export
from decascade.formats.torch.archive import load_program
from decascade.errors import FormatError
good, evil, canary = sys.argv[1:]
load_program(Path(good))  # whatever torch imports lazily
seen = []
def hook(event, arguments):
    if event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork",
                 "os.remove", "os.rename", "pickle.find_class"):
        seen.append((event, str(arguments)[:200]))
    elif event == "import" and "canary" in str(arguments[0]):
        seen.append((event, arguments[0]))
    elif event == "open" and (canary in str(arguments[0]) or set(str(arguments[1] or "")) & set("wax+")):
        seen.append((event, str(arguments)[:200]))
sys.addaudithook(hook)
try:
    load_program(Path(evil))
    print("loaded")
except FormatError as error:
    print("refused")
print(seen)
"""


def _canary(where: str) -> Callable[[Any], None]:
    code = "__import__('canary_module')"

    def change(model: Any) -> None:
        graph = model["graph_module"]["graph"]
        match where:
            case "target":
                graph["nodes"][0]["target"] = "canary_module.run"
            case "expression":
                graph["sym_int_values"]["s"] = {"as_expr": {"expr_str": code, "hint": None}}
            case "guards":
                model["guards_code"] = [code]
            case "metadata":
                graph["nodes"][0]["metadata"] = {"torch_fn": code, "nn_module_stack": f"{code},,{code}", "custom": code}
            case "spec":
                spec = '[1, {"type": "canary_module.Tree", "context": "{}", "children_spec": []}]'
                model["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = spec
            case _:
                model["verifiers"] = ["canary_module"]

    return change


@pytest.mark.parametrize("where", ["target", "expression", "guards", "metadata", "spec", "verifiers"])
def test_nothing_in_a_file_runs(where: str, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "canary_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    evil = changed(saved, tmp_path / "evil.pt2", "models/model.json", _canary(where))
    command = [sys.executable, "-W", "ignore", "-c", CANARY, str(saved), str(evil), str(tmp_path / "canary")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert result.stdout.splitlines()[-1] == "[]", result.stdout
    assert result.stdout.startswith("loaded" if where in ("guards", "metadata") else ("refused", "loaded"))
    assert not (tmp_path / "ran").exists()
