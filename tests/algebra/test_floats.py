"""What is known of floating-point types is what rounding to them does."""

from __future__ import annotations

import numpy as np
import pytest

from decascade.algebra.floats import float_type, rounded

TYPES = ("float16", "bfloat16", "float32", "float64")


@pytest.mark.parametrize("dtype", TYPES[:3])
def test_u_is_the_largest_relative_error_of_rounding(dtype: str) -> None:
    """It is reached, just above 1, and never passed."""
    kind = float_type(dtype)
    assert kind is not None
    x = np.concatenate([1 + kind.u * np.linspace(0, 8, 4001), np.random.default_rng(0).uniform(1, 4, 4000)])
    error = np.abs(rounded(x, dtype).astype(np.float64) - x) / x
    assert error.max() <= kind.u
    assert error.max() > 0.99 * kind.u * (1 - kind.u)


@pytest.mark.parametrize("dtype", TYPES)
def test_the_top_is_the_largest_number(dtype: str) -> None:
    kind = float_type(dtype)
    assert kind is not None
    assert float(rounded(np.array([kind.top]), dtype)[0]) == kind.top
    if dtype != "float64":
        assert np.isinf(rounded(np.array([kind.top * (1 + 2 * kind.u)]), dtype)[0])
    assert float(rounded(np.array([kind.tiny]), dtype)[0]) == kind.tiny


def test_what_is_no_floating_point_type_has_none() -> None:
    assert float_type("int8") is None
    assert float_type("float8e4m3fn") is None
