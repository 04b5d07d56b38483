"""TensorFlow and Triton in one process."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType

import pytest

from decascade.compression.torch_graph.ops import load_torch
from decascade.formats.keras.base import keras
from decascade.formats.torch.common import load
from decascade.frameworks import keep_triton_out


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of the two is loaded; afterwards everything is as it was."""
    for name in ("tensorflow", "triton"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("modules")
def test_without_tensorflow_nothing_is_done() -> None:
    keep_triton_out()
    assert "triton" not in sys.modules


@pytest.mark.usefixtures("modules")
def test_beside_tensorflow_triton_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ImportError, which PyTorch expects, and not the end of the process."""
    monkeypatch.setitem(sys.modules, "tensorflow", ModuleType("tensorflow"))
    keep_triton_out()
    with pytest.raises(ImportError):
        importlib.import_module("triton")
    assert importlib.util.find_spec("triton") is None


@pytest.mark.usefixtures("modules")
def test_a_triton_that_is_there_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    there = ModuleType("triton")
    for name, module in (("triton", there), ("tensorflow", ModuleType("tensorflow"))):
        monkeypatch.setitem(sys.modules, name, module)
    keep_triton_out()
    assert sys.modules["triton"] is there


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize("asked", [load_torch.__wrapped__, load.__wrapped__, keras], ids=["training", "reading", "keras"])
def test_whoever_brings_them_together(asked: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("keras")
    monkeypatch.setitem(sys.modules, "tensorflow", ModuleType("tensorflow"))
    asked()
    assert sys.modules["triton"] is None
