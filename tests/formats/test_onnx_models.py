"""Real, published models: the graph means what onnxruntime computes, whole and written anew."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from decascade.formats.onnx.format import FORMAT
from decascade.ir.check import check
from decascade.ir.interpret import run
from formats.onnx_cases import close, onnxruntime_outputs, ops, renewed, sample

MODELS = Path(__file__).resolve().parents[2].parent / "shared" / "models"
KINDS = {
    "layerfolding_resnet20.onnx": {
        "Conv": 21, "Affine": 21, "Activation": 9, "Add": 9, "GlobalPool": 1, "Flatten": 1, "Dense": 1
    },
    "FastestDet.onnx": {
        "Conv": 70, "Activation": 50, "Select": 26, "Concat": 19, "Pool": 2, "[Transpose]": 2, "Upsample": 1, "Pad": 1, "Add": 1
    },
    "yunet_n_320_320.onnx": {
        "Conv": 59, "Activation": 24, "[Transpose]": 12, "[Reshape]": 12, "Pool": 4, "Upsample": 2, "Add": 2
    },
    "st_mobilenet_v2_0.35_128.onnx": {
        "Conv": 52, "Activation": 36, "Add": 10, "Affine": 7, "Pad": 4, "GlobalPool": 1, "Flatten": 1, "Dense": 1
    },
    "espcn_subpixel.onnx": {"Conv": 4, "Activation": 3, "[DepthToSpace]": 1},
}


@pytest.mark.parametrize("name", KINDS)
def test_published_models(name: str, tmp_path: Path) -> None:
    path = MODELS / name
    if not path.exists():
        pytest.skip(f"{name} is not there")
    proto = onnx.load(path)
    document = FORMAT.read(path)
    check(document.graph)
    assert Counter(ops(document)) == KINDS[name]
    feeds = sample(proto)
    expected = onnxruntime_outputs(proto, feeds)
    for key, value in run(document.graph, feeds).items():
        close(value, expected[key])
    for key, value in FORMAT.run(document.native, feeds).items():
        np.testing.assert_array_equal(value, expected[key])
    assert FORMAT.live(FORMAT.write(document, document.graph)) == proto
    FORMAT.save(renewed(document), tmp_path / "new.onnx")
    onnx.checker.check_model(tmp_path / "new.onnx", full_check=True)
    for key, value in onnxruntime_outputs(onnx.load(tmp_path / "new.onnx"), feeds).items():
        close(value, expected[key])


def test_a_saved_file_is_what_protobuf_would_write(tmp_path: Path) -> None:
    """The file is written piece by piece; it must read back as the very same message."""
    found = sorted(MODELS.glob("*.onnx"))
    if not found:
        pytest.skip("no published models there")
    for path in found:
        FORMAT.save(FORMAT.read(path).native, tmp_path / path.name)
        assert onnx.load(tmp_path / path.name) == onnx.load(path)
