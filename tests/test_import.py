"""`import decascade` is quick and needs NumPy alone; the public names are all there."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import decascade

HEAVY = ("onnx", "onnx_ir", "onnxruntime", "keras", "tensorflow", "torch", "jax", "h5py", "typer", "rich", "jinja2", "sklearn")
"""What nobody may pay for who did not ask for it."""


def loaded_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sorted(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_loads_no_framework() -> None:
    assert not loaded_after("import decascade").intersection((*HEAVY, "scipy"))


def test_mathematics_alone_needs_numpy_alone() -> None:
    assert not loaded_after("import decascade; decascade.Conv; decascade.compose").intersection((*HEAVY, "scipy"))


def test_api_loads_no_framework() -> None:
    assert not loaded_after("import decascade; decascade.merge, decascade.inspect, decascade.verify").intersection(HEAVY)


def test_import_works_off_little() -> None:
    """As many modules as NumPy itself loads, and a few: what 0.3 s are spent on."""
    more = loaded_after("import decascade") - loaded_after("import numpy")
    assert more <= {"decascade", "importlib", "__future__"}


def test_every_public_name_is_there() -> None:
    for name in decascade.__all__:
        assert getattr(decascade, name) is not None
    assert set(decascade.__all__) <= set(dir(decascade))
    with pytest.raises(AttributeError, match="no attribute 'melt'; did you mean one of"):
        _ = decascade.melt


def test_functions_are_not_hidden_by_modules() -> None:
    import decascade.checking.models
    import decascade.regions.merge

    assert all(callable(f) for f in (decascade.merge, decascade.verify, decascade.inspect))


def test_version_is_that_of_the_package() -> None:
    assert decascade.__version__ == version("decascade")
