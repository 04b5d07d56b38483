"""Files: .pt2 archives are opened without running what is in them, pickles are never opened, every refusal says what to do."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import decascade as dc
from decascade.errors import FormatError, UnsafeModelError
from decascade.formats.torch.format import FORMAT
from decascade.formats.torch.sizes import is_expression

torch = pytest.importorskip("torch")
nn = torch.nn
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 5)
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))

    def forward(self, x: Any) -> Any:
        y = self.body(x - self.mean)
        return self.head(torch.flatten(y.mean((2, 3), keepdim=True), 1)), y


X = np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("torch") / "net.pt2"
    torch.manual_seed(0)
    free = {0: torch.export.Dim.DYNAMIC}
    torch.export.save(torch.export.export(Net().eval(), (torch.zeros(2, 3, 6, 6),), dynamic_shapes=(free,)), path)
    return path


def test_round_trip(saved: Path, tmp_path: Path) -> None:
    document = FORMAT.read(saved)
    assert document.source == saved
    assert document.graph.shape("x") == ("N", 3, 6, 6)
    written = FORMAT.write(document, document.graph)
    assert {"body.0.weight", "body.1.running_var", "head.bias", "mean"} <= set(written.state_dict())
    again = tmp_path / "again.pt2"
    FORMAT.save(written, again)
    second = FORMAT.read(again)
    assert [type(n.op) for n in second.graph.nodes] == [type(n.op) for n in document.graph.nodes]
    for name, want in FORMAT.run(document.native, {"x": X}).items():
        np.testing.assert_array_equal(FORMAT.run(second.native, {"x": X})[name], want)
    five = FORMAT.run(second.native, {"x": np.concatenate([X, X, X])})  # the batch stays free
    assert five["output_0"].shape == (6, 5)


def test_saved_under_any_name(saved: Path, tmp_path: Path) -> None:
    document = FORMAT.read(saved)
    FORMAT.save(FORMAT.write(document, document.graph), tmp_path / "net.tmp123")
    assert zipfile.is_zipfile(tmp_path / "net.tmp123")


def test_exported_program_is_saved_as_it_is(saved: Path, tmp_path: Path) -> None:
    program = FORMAT.read(saved).native
    FORMAT.save(program, tmp_path / "copy.pt2")
    assert FORMAT.read(tmp_path / "copy.pt2").graph.outputs == ("output_0", "output_1")


def _changed(source: Path, target: Path, edit: Callable[[dict[str, bytes]], None]) -> Path:
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    edit(members)
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return target


def _model(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, bytes]], None]:
    def edit(members: dict[str, bytes]) -> None:
        name = next(n for n in members if n.endswith("models/model.json"))
        model = json.loads(members[name])
        change(model)
        members[name] = json.dumps(model).encode()

    return edit


def _config(folder: str, change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, bytes]], None]:
    def edit(members: dict[str, bytes]) -> None:
        name = next(n for n in members if n.endswith(f"model_{folder}_config.json"))
        table = json.loads(members[name])
        change(table["config"])
        members[name] = json.dumps(table).encode()

    return edit


class _Bomb:
    def __reduce__(self) -> Any:
        return (Path.touch, (_Bomb.mark,))

    mark: Path


def _top(members: dict[str, bytes]) -> str:
    return next(iter(members)).partition("/")[0]


def _pickled_weight(members: dict[str, bytes]) -> None:
    def use_pickle(config: dict[str, Any]) -> None:
        config["body.0.weight"] |= {"use_pickle": True}

    _config("weights", use_pickle)(members)
    buffer = io.BytesIO()
    torch.save(_Bomb(), buffer)
    members[f"{_top(members)}/data/weights/weight_0"] = buffer.getvalue()


def _custom_object(members: dict[str, bytes]) -> None:
    def opaque(config: dict[str, Any]) -> None:
        config["evil"] = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}

    _config("constants", opaque)(members)


def _legacy_weights(members: dict[str, bytes]) -> None:
    members[f"{_top(members)}/data/weights/model.pt"] = pickle.dumps(_Bomb())


def _compiled(members: dict[str, bytes]) -> None:
    members[f"{_top(members)}/data/aotinductor/model/evil.so"] = b"\x7fELF"


def _second_model(members: dict[str, bytes]) -> None:
    members[f"{_top(members)}/models/other.json"] = b"{}"


def _sample(members: dict[str, bytes]) -> None:
    members[f"{_top(members)}/data/sample_inputs/model.pt"] = pickle.dumps(_Bomb())


def _target(name: str) -> Callable[[dict[str, Any]], None]:
    def change(model: dict[str, Any]) -> None:
        model["graph_module"]["graph"]["nodes"][-1]["target"] = name

    return change


def _expression(model: dict[str, Any]) -> None:
    value = next(iter(model["graph_module"]["graph"]["sym_int_values"].values()), None)
    evil = {"expr_str": "[].__class__.__base__.__subclasses__()", "hint": None}
    if value is None:
        model["graph_module"]["graph"]["sym_int_values"]["s"] = {"as_expr": evil}
    else:
        value["as_expr"] = evil


def _name(model: dict[str, Any]) -> None:
    text = json.dumps(model).replace('"x"', json.dumps("x=__import__('os').getcwd()"))
    model.clear()
    model.update(json.loads(text))


def _parameter(model: dict[str, Any]) -> None:
    text = json.dumps(model).replace('"body.0.weight"', json.dumps('body.0.weight") or print("'))
    model.clear()
    model.update(json.loads(text))


def _tree(model: dict[str, Any]) -> None:
    spec = '[1, {"type": "collections.defaultdict", "context": "{}", "children_spec": []}]'
    model["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = spec


UNSAFE: dict[str, tuple[Callable[[dict[str, bytes]], None], str]] = {
    "pickled weight": (_pickled_weight, r"stores body.0.weight as a pickle \(weight_0\), which is never loaded"),
    "opaque constant": (_custom_object, r"stores evil as a pickle \(opaque_obj_0\)"),
    "legacy weights": (_legacy_weights, r"holds data/weights/model.pt, a member that no plain exported program has"),
    "compiled code": (_compiled, r"holds data/aotinductor/model/evil.so, compiled code"),
    "second model": (_second_model, r"holds models/other.json"),
    "operator": (_model(_target("torch.os.system")), r"an operator that is not one of PyTorch's own.*torch.os.system"),
    "hub": (_model(_target("torch.hub.load")), r"an operator"),
    "file": (_model(_target("torch.ops.aten.from_file.default")), r"an operator"),
    "dunder": (_model(_target("torch.ops.aten.__class__.mro")), r"an operator"),
    "extension": (_model(_target("#evil:thing")), r"an operator"),
    "expression": (_model(_expression), r"a size that is no expression"),
    "name": (_model(_name), r"a name that is no name"),
    "parameter": (_model(_parameter), r"a string that is no name"),
    "tree": (_model(_tree), r"inputs or outputs of a type of their own"),
}


@pytest.mark.parametrize("name", UNSAFE)
def test_archive_that_could_run_code_is_refused(name: str, saved: Path, tmp_path: Path, monkeypatch: Any) -> None:
    _Bomb.mark = tmp_path / "ran"
    monkeypatch.setattr(torch.export, "load", lambda *_: pytest.fail("the archive reached torch"))
    edit, words = UNSAFE[name]
    with pytest.raises(UnsafeModelError, match=words) as caught:
        FORMAT.read(_changed(saved, tmp_path / "evil.pt2", edit))
    assert "\n" not in str(caught.value)
    assert not _Bomb.mark.exists()


def test_pickled_sample_inputs_are_left_out(saved: Path, tmp_path: Path) -> None:
    _Bomb.mark = tmp_path / "ran"
    document = FORMAT.read(_changed(saved, tmp_path / "sample.pt2", _sample))
    assert not _Bomb.mark.exists()
    assert document.graph.inputs == ("x",)


def test_guards_are_not_executed(saved: Path, tmp_path: Path) -> None:
    _Bomb.mark = tmp_path / "ran"

    def guards(model: dict[str, Any]) -> None:
        model["guards_code"] = [f"open({str(_Bomb.mark)!r}, 'w')"]

    document = FORMAT.read(_changed(saved, tmp_path / "guards.pt2", _model(guards)))
    FORMAT.run(document.native, {"x": X})
    assert not _Bomb.mark.exists()


@pytest.mark.parametrize("extension", ["pt", "pth", "th", "ckpt"])
def test_pickles_are_never_opened(extension: str, tmp_path: Path) -> None:
    path = tmp_path / f"model.{extension}"
    path.write_bytes(pickle.dumps(_Bomb()))
    _Bomb.mark = tmp_path / "ran"
    words = r"is a pickle, which can run code when it is loaded and is never opened: .* nn.Module"
    with pytest.raises(UnsafeModelError, match=words):
        FORMAT.read(path)
    assert not _Bomb.mark.exists()


def test_torch_save_under_the_name_of_an_export(tmp_path: Path) -> None:
    torch.save(Net().state_dict(), tmp_path / "state.pt2")
    with pytest.raises(UnsafeModelError, match=r"is a pickle by torch.save, not an exported program"):
        FORMAT.read(tmp_path / "state.pt2")


@pytest.mark.parametrize("mode", ["script", "trace"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_under_the_name_of_an_export(mode: str, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval()
    script = torch.jit.script(net) if mode == "script" else torch.jit.trace(net, torch.zeros(1, 3, 6, 6))
    torch.jit.save(script, tmp_path / "script.pt2")
    words = r"is TorchScript \(torch.jit.save\), which is a program and is never loaded: export the nn.Module"
    with pytest.raises(UnsafeModelError, match=words):
        FORMAT.read(tmp_path / "script.pt2")


def _bytes(data: bytes) -> Callable[[Path, Path], None]:
    return lambda source, path: path.write_bytes(data) and None


def _cut(source: Path, path: Path) -> None:
    path.write_bytes(source.read_bytes()[:2000])


def _no_model(source: Path, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/archive_format", "pt2")


def _old(source: Path, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr("version", "5.1")


def _strange(source: Path, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("one/a.txt", "")
        archive.writestr("two/b.txt", "")


def _bad_json(source: Path, path: Path) -> None:
    _changed(source, path, lambda members: members.update({f"{_top(members)}/models/model.json": b"{"}))


def _new_version(source: Path, path: Path) -> None:
    _changed(source, path, _model(lambda model: model.update(schema_version={"major": 99, "minor": 1})))


def _nan(source: Path, path: Path) -> None:
    def edit(members: dict[str, bytes]) -> None:
        members[f"{_top(members)}/data/weights/weight_0"] = np.full(108, np.nan, np.float32).tobytes()

    _changed(source, path, edit)


BAD: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "empty": (_bytes(b""), "is empty"),
    "text": (_bytes(b"hello, this is no model at all"), "holds no zip archive"),
    "hdf5": (_bytes(b"\x89HDF\r\n\x1a\n" + b"0" * 50), "HDF5"),
    "pickle": (_bytes(pickle.dumps([1, 2, 3])), "a pickle, which is never loaded"),
    "truncated": (_cut, "is truncated or damaged"),
    "no model": (_no_model, "is no exported program: it lacks models/model.json"),
    "before 2.8": (_old, "was exported before torch 2.8, with its weights as pickles: load it where you trust it"),
    "another zip": (_strange, "is no exported program"),
    "bad json": (_bad_json, "is damaged: a part that should be JSON is not"),
    "another version": (_new_version, r"is of schema version 99, torch .* reads \d+: load it where"),
    "nan": (_nan, r"body.0.weight has 108 of 108 values that are NaN or infinite: repair or retrain it"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_file(name: str, saved: Path, tmp_path: Path) -> None:
    make, words = BAD[name]
    path = tmp_path / "bad.pt2"
    make(saved, path)
    before = path.read_bytes()
    with pytest.raises(FormatError, match=words) as caught:
        FORMAT.read(path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="does not exist"):
        FORMAT.read(tmp_path / "nothing.pt2")


@pytest.mark.parametrize(
    "text", ["s0", "Symbol('s31', positive=True, integer=True)", "2*s0 + 1", "FloorDiv(s0, 2)", "Max(1, u3)"]
)
def test_size_expressions(text: str) -> None:
    assert is_expression(text)


@pytest.mark.parametrize(
    "text", ["__import__('os')", "s0.__class__", "exec('1')", "lambda: 0", "s0; s1", "'a' 'b c'", "[s0]", "open", "s0\n.x"]
)
def test_code_is_no_size_expression(text: str) -> None:
    assert not is_expression(text)


@pytest.mark.parametrize("what", ["a whole module", "a state_dict"])
@pytest.mark.parametrize("extension", ["pt", "pth"])
def test_what_torch_save_writes_is_refused_by_merge_too(what: str, extension: str, tmp_path: Path) -> None:
    net, path = Net(), tmp_path / f"net.{extension}"
    torch.save(net if what == "a whole module" else net.state_dict(), path)
    for call in (lambda: dc.merge(path), lambda: dc.inspect(str(path)), lambda: dc.verify(path, path)):
        with pytest.raises(UnsafeModelError, match=r"pass the nn\.Module, or store it with torch\.export\.save as \.pt2"):
            call()


def test_a_live_state_dict_is_told_where_it_belongs() -> None:
    for state in (Net().state_dict(), dict(Net().state_dict())):
        with pytest.raises(FormatError, match=r"put it into your module \(module.load_state_dict\(state\)\)"):
            dc.merge(state)
