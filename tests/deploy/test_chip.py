"""Standalone C and the emulated Cortex-M: the same count in every run, the same outputs as onnxruntime."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from shutil import which

import numpy as np
import pytest

pytest.importorskip("emx_onnx_cgen", reason="emx-onnx-cgen is not installed: pip install decascade[device]")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install decascade[run]")

from cascades import random_input
from decascade.algebra.conv import Conv
from decascade.cost.folding import folded
from decascade.deploy.c.code import Argument, Code, array_text, c_name, generate
from decascade.deploy.c.cortex_m import run_on_chip
from decascade.deploy.onnx.model import onnx_of
from decascade.errors import UsageError
from decascade.formats.onnx.model import OnnxModel
from decascade.formats.onnx.run import run_model
from decascade.ir.graph import Node
from decascade.ir.interpret import run
from decascade.ir.ops import Affine, Foreign, Identity
from deploy.small import graph_of, net, one

needs_chip = pytest.mark.skipif(
    which("qemu-system-arm") is None or which("arm-none-eabi-gcc") is None, reason="run scripts/install-device-tools.sh"
)


@needs_chip
@pytest.mark.parametrize("machine", ["cortex-m4", "cortex-m7"])
def test_outputs_equal_onnxruntime(machine: str, rng: np.random.Generator) -> None:
    model = onnx_of(folded(net(rng)))
    x = rng.uniform(-1, 1, (1, 3, 10, 10)).astype(np.float32)
    chip = run_on_chip(generate(model), [x], machine)
    assert np.abs(chip.outputs[0] - run_model(model, {"x": x})["y"]).max() < 1e-5
    assert chip.stack >= 4 * 800  # a map of 8 x 10 x 10 floats is alive at least
    assert chip.flash > 4 * 836  # the weights are in it


@needs_chip
def test_counts_are_the_same_in_every_run_also_under_load(rng: np.random.Generator) -> None:
    code = generate(onnx_of(folded(net(rng, 4, 6))))
    x = rng.uniform(-1, 1, (1, 3, 6, 6)).astype(np.float32)
    counts = [run_on_chip(code, [x]).instructions for _ in range(2)]
    burners = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(4)]
    try:
        with ThreadPoolExecutor(3) as pool:
            counts += [c.instructions for c in pool.map(lambda _: run_on_chip(code, [x]), range(3))]
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    assert len(counts) == 5
    assert len(set(counts)) == 1


@needs_chip
def test_twice_the_work_is_twice_the_count(rng: np.random.Generator) -> None:
    counts = []
    for channels in (4, 8):
        conv = Conv(rng.normal(size=(channels, 4, 3, 3)).astype(np.float32), np.ones(channels, np.float32))
        code = generate(onnx_of(one(conv, (4, 8, 8))))
        counts.append(run_on_chip(code, [np.zeros((1, 4, 8, 8), np.float32)]).instructions)
    assert counts[0] > 3 * 4 * 4 * 9 * 36
    assert 1.9 < counts[1] / counts[0] <= 2  # what does not grow with the channels: the call, the walk over the map


@needs_chip
def test_model_that_does_not_fit_is_refused() -> None:
    body = "const float w[1200000] = {1};\nvoid model(const float x[1], float y[1]) { y[0] = w[(int)x[0]]; }"
    code = Code("model", body, (Argument("x", (1,)),), (Argument("y", (1,)),))
    with pytest.raises(UsageError, match=r"does not fit the emulated board: \d+ bytes over its 4 MiB of flash"):
        run_on_chip(code, [np.zeros(1, np.float32)])


@needs_chip
def test_code_that_does_not_compile_is_told() -> None:
    body = "void model(const float x[1], float y[1]) { nonsense; }"
    code = Code("model", body, (Argument("x", (1,)),), (Argument("y", (1,)),))
    with pytest.raises(UsageError, match=r"arm-none-eabi-gcc does not compile the generated C: .*nonsense"):
        run_on_chip(code, [np.zeros(1, np.float32)])


@needs_chip
def test_program_that_faults_is_told() -> None:
    body = "void model(const float x[1], float y[1]) { y[0] = *(volatile float *)0xF0000000u; }"
    code = Code("model", body, (Argument("x", (1,)),), (Argument("y", (1,)),))
    with pytest.raises(UsageError, match="the program fails on the emulated machine: fault status 0x"):
        run_on_chip(code, [np.zeros(1, np.float32)])


@needs_chip
@pytest.mark.parametrize("words", [4300000, 9000000])  # a little more than there is, which faults nowhere, and a lot
def test_program_that_exhausts_the_stack_is_told(words: int) -> None:
    body = f"""void model(const float x[1], float y[1]) {{
    float t[{words}];
    for (int i = 0; i < {words}; ++i) t[i] = x[0] * i;
    y[0] = t[(int)x[0]];
}}"""
    code = Code("model", body, (Argument("x", (1,)),), (Argument("y", (1,)),))
    told = rf"does not fit the emulated board: its temporaries, up to {4 * words + 65536} bytes, exhaust 16 MiB of RAM"
    with pytest.raises(UsageError, match=told):
        run_on_chip(code, [np.zeros(1, np.float32)])


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    code = Code("model", "", (), ())
    with pytest.raises(UsageError, match=r"needs arm-none-eabi-gcc, which is not installed: run scripts/install-device-tools"):
        run_on_chip(code, [])


def test_what_has_no_onnx_form_is_refused() -> None:
    with pytest.raises(UsageError, match="op: Einsum is not understood, so it cannot be exported from here"):
        onnx_of(one(Foreign("Einsum"), (3, 4)))


def test_what_has_no_c_is_refused() -> None:
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    ports = [helper.make_tensor_value_info(n, 1, [1, 3]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Melt", ["x"], ["y"])], "g", ports[:1], ports[1:])
    with pytest.raises(UsageError, match=r"emx-onnx-cgen has no C for this model: .*Melt"):
        generate(OnnxModel(helper.make_model(graph), {}))


def test_other_arrays_than_floats_are_refused() -> None:
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    ports = [helper.make_tensor_value_info(n, 7, [1, 3]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", ports[:1], ports[1:])
    with pytest.raises(UsageError, match=r"the C function takes .*: only float arrays of fixed sizes are supported"):
        generate(OnnxModel(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), {}))


def test_normalisations_are_folded(rng: np.random.Generator) -> None:
    graph = net(rng)
    small = folded(graph)
    assert [type(n.op).__name__ for n in small.nodes].count("Affine") == 0
    inputs = random_input(graph, rng)
    np.testing.assert_allclose(run(small, inputs)["y"], run(graph, inputs)["y"], rtol=1e-6)


def test_what_else_reads_the_convolution_keeps_its_normalisation(rng: np.random.Generator) -> None:
    conv = Conv(rng.normal(size=(2, 3, 1, 1)))
    nodes = [Node("c", conv, ("x",), ("t",)), Node("i", Identity(), ("t",), ("u",)),
             Node("a", Affine(np.full(2, 2.0), np.ones(2)), ("u",), ("y",))]
    graph = graph_of(nodes, ("N", 3, 4, 4))
    both = graph.with_nodes(graph.nodes)
    assert len(folded(both).nodes) == 1
    from dataclasses import replace

    kept = folded(replace(graph, outputs=("t", "y")))
    assert [n.name for n in kept.nodes] == ["c", "a"]


@pytest.mark.parametrize(("stem", "name"), [("net", "net"), ("my-net.v2", "my_net_v2"), ("8bit", "net_8bit")])
def test_names_are_c_identifiers(stem: str, name: str) -> None:
    assert c_name(stem) == name


def test_arrays_keep_every_bit(rng: np.random.Generator) -> None:
    text = array_text("a", np.array([1 / 3, -2.5e-38], np.float32))
    words = text.partition("{")[2].partition("}")[0].replace("f", "").split(",")
    assert [float.fromhex(w.strip()) for w in words] == [float(np.float32(1 / 3)), float(np.float32(-2.5e-38))]
    with pytest.raises(UsageError, match="not finite"):
        array_text("a", np.array([np.inf], np.float32))
