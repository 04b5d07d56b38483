"""Fixtures that all tests share."""

from __future__ import annotations

import os

import numpy as np
import pytest

# TensorFlow has depthwise kernels of unequal strides and dilated transposed ones in oneDNN alone, and leaves that out on
# processors without AVX-512.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


@pytest.fixture
def rng() -> np.random.Generator:
    """The same numbers in every run."""
    return np.random.default_rng(0)
