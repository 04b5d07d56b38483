"""The user's own samples: `.npz` and `.npy` files, arrays, mappings of input names to arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from decascade.errors import UsageError


def load_data(data: object, inputs: Sequence[str]) -> dict[str, NDArray[Any]]:
    """One array per model input, samples on the first axis.

    A single array, or the array `x` of a `.npz` file, stands for the only input.  Nothing in a file is unpickled.

    Raises:
        UsageError: a file that is missing or no such file, or arrays that do not name the inputs.
    """
    arrays = load_arrays(data)
    if set(inputs) <= arrays.keys():
        return {name: arrays[name] for name in inputs}
    if len(inputs) == 1 and "x" in arrays:
        return {inputs[0]: arrays["x"]}
    wanted = "an array x" if len(inputs) == 1 else f"arrays {', '.join(inputs)}"
    raise UsageError(f"the data holds {', '.join(arrays) or 'nothing'}: the model needs {wanted}")


def load_arrays(data: object) -> dict[str, NDArray[Any]]:
    """All arrays of the data by name; a single one is `x`.

    Raises:
        UsageError: a file that is missing or no such file.
    """
    found = _file(Path(data)) if isinstance(data, str | Path) else data
    if not isinstance(found, Mapping):
        found = {"x": np.asarray(found)}
    return {str(k): np.asarray(v) for k, v in cast("Mapping[Any, Any]", found).items()}


def _file(path: Path) -> object:
    if path.suffix.lower() not in (".npz", ".npy"):
        raise UsageError(f"data {path}: give a .npz file with an array x, or a .npy file")
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            return dict(loaded) if path.suffix.lower() == ".npz" else loaded
    except FileNotFoundError:
        raise UsageError(f"data {path} does not exist: check the name") from None
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise UsageError(f"data {path} cannot be read: {str(error).splitlines()[0] if str(error) else 'truncated'}") from None
