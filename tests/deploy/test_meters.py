"""The instruments: what they measure is real, comparable, and kept; no test depends on how fast this machine is."""

from __future__ import annotations

from pathlib import Path
from shutil import which

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install decascade[run]")

from decascade.algebra.conv import Conv
from decascade.cost.cache import Cache
from decascade.cost.folding import folded
from decascade.cost.measured import Measured, highest
from decascade.deploy.c.code import generate
from decascade.deploy.c.cortex_m import run_on_chip
from decascade.deploy.meters.ort import OrtMeter, _edges, nothing, samples, side_by_side, time_of_edges, yardstick
from decascade.deploy.meters.timing import Effort, Stopwatch, fastest, half_width
from decascade.deploy.onnx.model import onnx_of
from decascade.deploy.targets import NAMES, target_of
from decascade.errors import UsageError
from decascade.ir.graph import Graph
from decascade.ir.interpret import run
from deploy.small import net, one

QUICK = Effort(runs=8, visits=1)


def tools(*modules: str) -> None:
    for name in modules:
        pytest.importorskip(name, reason=f"{name} is not installed: pip install decascade[device]")


def chip_tools() -> None:
    tools("emx_onnx_cgen")
    if which("qemu-system-arm") is None or which("arm-none-eabi-gcc") is None:
        pytest.skip("run scripts/install-device-tools.sh")


def conv(channels: int, size: int) -> Graph:
    weight = np.random.default_rng(1).normal(size=(channels, channels, 3, 3)).astype(np.float32)
    return one(Conv(weight, None, 1, 1, 1), (channels, size, size))


def test_fastest_quarter_is_deaf_to_disturbances(rng: np.random.Generator) -> None:
    quiet = rng.normal(100.0, 1.0, 200)
    disturbed = quiet + (rng.random(200) < 0.5) * rng.exponential(300.0, 200)
    assert abs(fastest(disturbed) / fastest(quiet) - 1) < 0.02
    assert half_width(quiet, rng) < 1.0 < half_width(rng.exponential(300.0, 40), rng)
    assert fastest(np.array([3.0, 1.0])) == 1.0


def test_stopwatch_scales_by_the_yardstick_and_stops_when_it_is_sure() -> None:
    """A machine at half its speed: the layer and the yardstick both take twice as long, and the number stays."""
    visits = list[int]()

    def visit(speed: float, spread: float) -> tuple[np.ndarray, np.ndarray]:
        visits.append(1)
        return speed * np.linspace(100, 100 + spread, 20), np.full(20, speed * 10.0)

    watch = Stopwatch(effort=Effort(runs=20, visits=5))
    first, _ = watch.measure(lambda runs: visit(1.0, 0.0))
    assert (first, watch.known, len(visits)) == (100.0, 10.0, 1)
    slow, _ = watch.measure(lambda runs: visit(2.0, 0.0))
    assert slow == pytest.approx(100.0)
    visits.clear()
    watch.measure(lambda runs: visit(1.0, 500.0))
    assert len(visits) == 5


def test_onnxruntime_times_grow_with_the_work_and_are_kept(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "m.json")
    meter = OrtMeter(cache, QUICK)
    small, large = meter.measure(conv(8, 16)), meter.measure(conv(32, 32))  # 64 times the multiply-accumulates
    assert 0 < small[0] < large[0]
    assert small[1] > 0
    assert cache.get(meter.identity, "yardstick") is not None
    assert "onnxruntime" in meter.identity
    assert "1 thread" in meter.identity


def test_what_the_profiler_takes_is_no_time_of_a_kernel() -> None:
    """Kernels of 3, 20, 2 and 15 µs, to each of which the profile adds 2."""
    profile = np.tile([5.0, 22.0, 4.0, 17.0], (8, 1))
    assert time_of_edges(profile, [0, 2], 40.0) == pytest.approx(5.0)
    assert time_of_edges(profile, [], 40.0) == 0.0
    assert time_of_edges(profile, [0, 2], 4.0) == 0.0  # nothing is ever less than nothing
    assert time_of_edges(profile, [0, 2], 60.0) == pytest.approx(9.0)


def test_a_layer_of_next_to_nothing_is_next_to_free(tmp_path: Path) -> None:
    meter = OrtMeter(Cache(tmp_path / "m.json"), Effort(runs=20))
    found, _ = meter.measure(nothing())
    assert 0 <= found < meter.measure(yardstick())[0]


def test_copies_of_a_layer_share_nothing(rng: np.random.Generator) -> None:
    graph = net(rng)
    three = side_by_side(graph, 3)
    assert len(three.nodes) == 3 * len(graph.nodes)
    feeds = samples(three)
    for i in range(3):
        alone = run(graph, {"x": feeds[f"x/{i}"]})["y"]
        np.testing.assert_array_equal(run(three, feeds)[f"y/{i}"], alone)
    assert side_by_side(graph, 1) is graph


def test_only_conversions_at_the_ends_are_left_out() -> None:
    def event(kind: str, shape: list[int]) -> dict[str, object]:
        return {"args": {"op_name": kind, "input_type_shape": [{"float": shape}], "output_type_shape": [{"float": shape}]}}

    own, other = [1, 16, 8, 8], [1, 16, 4, 8]
    events = [event("ReorderInput", own), event("Conv", own), event("ReorderOutput", own), event("Slice", other),
              event("ReorderInput", own), event("Conv", own), event("ReorderOutput", own)]
    assert _edges(events, "ReorderInput", "input_type_shape", [own]) == [0]
    assert _edges(events, "ReorderOutput", "output_type_shape", [own]) == [6]
    assert _edges(events, "ReorderOutput", "output_type_shape", [other]) == []


@pytest.mark.parametrize("int8", [True, False])
def test_litert_times(int8: bool, tmp_path: Path) -> None:
    tools("tensorflow", "ai_edge_litert")
    from decascade.deploy.meters.tflite import LiteRTMeter

    meter = LiteRTMeter(int8, Cache(tmp_path / "m.json"), QUICK)
    small, large = meter.measure(conv(4, 8)), meter.measure(conv(32, 32))
    assert 0 <= small[0] < large[0]
    assert ("int8" if int8 else "float32") in meter.identity


def test_arena_is_that_of_the_microcontroller_interpreter(rng: np.random.Generator) -> None:
    tools("tensorflow", "ai_edge_litert", "tflite_micro")
    from decascade.deploy.meters.tflite import ArenaMeter

    small, large = (ArenaMeter().measure(conv(8, size)) for size in (8, 16))
    assert small[1] == large[1] == 0
    # two maps of a byte each entry are alive at once, and what persists is the same
    assert large[0] - small[0] == pytest.approx(2 * 8 * (16 * 16 - 8 * 8), rel=0.05)
    assert ArenaMeter(False).measure(conv(8, 16))[0] > 3 * (large[0] - 2000)


def test_instructions_are_those_of_the_chip(tmp_path: Path) -> None:
    chip_tools()
    from decascade.deploy.meters.chip import ChipMeter

    graph = conv(4, 6)
    value, width = ChipMeter().measure(graph)
    inputs = samples(folded(graph))
    assert (value, width) == (run_on_chip(generate(onnx_of(graph)), [inputs["x"]]).instructions, 0.0)


@pytest.mark.parametrize("name", ["macs", "memory", "flash", "flash:float"])
def test_counted_targets_by_name(name: str) -> None:
    assert target_of(name).name == name


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("macs", "memory", "flash", "flash:float", "table:FILE.csv")])
def test_measured_targets_by_name(name: str) -> None:
    tools("tensorflow", "ai_edge_litert", "tflite_micro")
    if name.startswith("cortex"):
        chip_tools()
    found = target_of(name)
    assert isinstance(found, Measured)
    assert found.name == name
    assert (found.joined is highest) == name.startswith("tflm")


def test_sums_of_targets() -> None:
    found = target_of("2*macs + 0.5 * flash:float")
    assert found.name == "2*macs + 0.5*flash:float"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("litret", r"unknown target 'litret'; did you mean litert\? \(targets: macs, memory, flash, "),
        ("1*macs + x", r"target term 'x': give WEIGHT\*NAME with a weight above 0"),
        ("0*macs", r"target term '0\*macs': give WEIGHT\*NAME"),
        ("1-2*macs", r"target term '1-2\*macs'"),
        ("1*nonsense", "unknown target 'nonsense'"),
        ("table:none.csv", "table none.csv does not exist"),
    ],
)
def test_names_that_are_none(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        target_of(name)


MISSING = {
    "onnxruntime": ("onnxruntime", '--target onnxruntime needs onnxruntime, which cannot be imported .*"decascade.run."'),
    "litert": ("tensorflow", "--target litert needs TensorFlow, which cannot be imported"),
    "litert:float": ("ai_edge_litert.interpreter", "--target litert:float needs ai-edge-litert, which cannot be imported"),
    "tflm": ("tflite_micro", '--target tflm needs tflite-micro, which cannot be imported .*: pip install "decascade.device."'),
    "cortex-m": ("emx_onnx_cgen", "--target cortex-m needs emx-onnx-cgen, which cannot be imported"),
}


@pytest.mark.parametrize("name", MISSING)
def test_missing_tools_are_named_with_how_to_get_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import decascade.frameworks as module

    absent, words = MISSING[name]
    real = module.import_module

    def without(wanted: str) -> object:
        if wanted == absent:
            raise ImportError(f"No module named {wanted!r}")
        return real(wanted) if wanted != "tensorflow" else None

    monkeypatch.setattr(module, "import_module", without)
    with pytest.raises(UsageError, match=words):
        target_of(name)


def test_missing_emulator_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    tools("emx_onnx_cgen")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match=r"--target cortex-m needs arm-none-eabi-gcc, .*install-device-tools.sh, or apt"):
        target_of("cortex-m")


def test_yardstick_is_a_layer_of_the_middle() -> None:
    assert yardstick().nodes[0].op.in_channels == 16
