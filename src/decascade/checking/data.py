"""The user's own samples: `.npz` and `.npy` files, arrays, mappings of input names to arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from decascade.errors import UsageError
from decascade.reading import arrays as files
from decascade.reading.arrays import SUFFIXES


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
        UsageError: a file that is missing or no such file, or what is no array.
        LimitExceededError: a file of more than `LIMITS.unpacked_bytes`.
    """
    found = _file(Path(data)) if isinstance(data, str | Path) else data
    if not isinstance(found, Mapping):
        found = {"x": found}
    return {str(k): _array(str(k), v) for k, v in cast("Mapping[Any, Any]", found).items()}


def _file(path: Path) -> object:
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"data {path}: give a .npz file with an array x, or a .npy file")
    return files.load_arrays(path, "data")


def _array(name: str, value: Any) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"the data of {name} is no array: give numbers, samples on the first axis") from None


def check_samples(name: str, array: NDArray[Any], dtype: str) -> None:
    """Samples of numbers that an input of the element type `dtype` can hold.

    Raises:
        UsageError: a single number, words, objects or complex numbers, fractions for an input of integers, values that are not
            finite or not within the type.
    """
    if not array.ndim:
        raise UsageError(f"data {name} is a single number: give an array with the samples on its first axis")
    if array.dtype.kind not in "buif":
        raise UsageError(f"the data of {name} is of type {array.dtype}: give numbers (uint8, float32, …)")
    floating = dtype.startswith(("float", "bfloat"))
    if array.dtype.kind == "f" and not floating and np.dtype(dtype).kind != "f":
        raise UsageError(f"the data of {name} is {array.dtype}, the model takes {dtype} there: give whole numbers")
    kind: np.dtype[Any] = np.dtype(np.float32 if dtype == "bfloat16" else dtype)
    low, high = _span(kind)
    wrong = ~((array >= low) & (array <= high))  # NaN compares false with everything
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        told = f"sample {at[0]} holds {array[at]}"
        if kind.kind == "f" and not np.isfinite(array[at]):
            count = int(wrong.reshape(len(array), -1).any(1).sum())
            raise UsageError(f"{count} of {len(array)} samples of {name} are not finite ({told}): repair them")
        raise UsageError(f"the data of {name} does not fit {dtype}, which the model takes ({told}): give data in its range")


def _span(kind: np.dtype[Any]) -> tuple[float, float]:
    """The lowest and the highest number of a type."""
    if kind.kind == "f":
        return -float(np.finfo(kind).max), float(np.finfo(kind).max)
    return (int(np.iinfo(kind).min), int(np.iinfo(kind).max)) if kind.kind in "iu" else (0, 1)
