"""The same under every backend of Keras that is installed: read, interpreted, changed, stored, channels first too."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("keras")

SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from formats.keras_cases import L, agrees, by_interpreter, chain, close, keras, op, sample, swapped, writes
from decascade.algebra.compose import compose
from decascade.formats.keras.format import FORMAT
from decascade.ir.ops import Foreign

assert keras.backend.backend() == sys.argv[1]
for order in ("channels_last", "channels_first"):
    keras.config.set_image_data_format(order)
    shape = (9, 8, 3) if order == "channels_last" else (3, 9, 8)
    axis = -1 if order == "channels_last" else 1
    model = chain(
        shape, L.Conv2D(6, 3, padding="same", strides=2, name="a"), L.Conv2D(4, 3, activation="relu", name="b"),
        L.BatchNormalization(axis=axis), L.DepthwiseConv2D(2, name="w"), L.Conv2DTranspose(3, 3, strides=2, padding="same"),
        L.MaxPooling2D(2), L.Flatten(), L.Dense(2, name="d"),
    )
    document = agrees(model, tolerance=1e-5)
    assert not document.notes, document.notes
    merged = compose(op(document, "b"), op(document, "a"))
    graph = swapped(document.graph, ["a", "b"], ("ab", merged, ["x"], "b/linear"))
    written = writes(document, graph, tolerance=1e-5)
    for name in ("m.keras", "m.h5"):
        FORMAT.save(written, Path(sys.argv[2]) / name)
        inputs = sample(document)
        again = FORMAT.read(Path(sys.argv[2]) / name)
        close(document, FORMAT.run(again.native, inputs), by_interpreter(document, graph, inputs), 1e-5)
keras.config.set_image_data_format("channels_last")
uneven = agrees(chain((7, 6, 3), L.AveragePooling2D(3, strides=2, padding="same", name="p")))
copied = sys.argv[1] == "torch"
assert isinstance(op(uneven, "p"), Foreign) == copied
assert ("copies of the edge" in "".join(uneven.notes)) == copied
print("same")
"""


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_backend(backend: str, tmp_path: Path) -> None:
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root / 'tests'}"}
    command = [sys.executable, "-W", "error::UserWarning:decascade", "-c", SCRIPT, backend, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.stdout.strip().endswith("same"), done.stderr[-2000:]
