"""TensorFlow functions as TFLite files: float32, or integers of eight bits throughout."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.deploy.tflite.graph import USE, Traced
from decascade.deploy.tools import module
from decascade.errors import UsageError

Sample = Sequence[NDArray[Any]]
"""One array per input, batch 1, in the layout of the traced function."""


def to_float(traced: Traced) -> bytes:
    """A float32 file.

    Raises:
        UsageError: the converter has no TFLite operation for something in the model; says for what.
    """
    return _converted(_converter(traced))


def to_int8(traced: Traced, samples: Iterable[Sample], per_channel: bool = True) -> bytes:
    """A full-integer file, int8 in and out: weights per output channel, activations per tensor, calibrated on samples.

    Raises:
        UsageError: as `to_float`; or no samples.
    """
    tf = module("tensorflow", USE)
    held = [[np.asarray(a, np.float32) for a in sample] for sample in samples]
    if not held:
        raise UsageError("int8 needs samples to calibrate on: give --data")
    converter = _converter(traced)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: iter(held)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    converter._experimental_disable_per_channel = not per_channel
    return _converted(converter)


def _converter(traced: Traced) -> Any:
    tf = module("tensorflow", USE)
    with _quiet():
        return tf.lite.TFLiteConverter.from_concrete_functions([traced.function])


def _converted(converter: Any) -> bytes:
    try:
        with _quiet():
            return bytes(converter.convert())
    except Exception as error:  # the converter's errors have no common base
        words = " ".join(str(error).split())[:300]
        raise UsageError(f"TensorFlow's converter has no TFLite form of this model: {words}") from None


@contextmanager
def _quiet() -> Generator[None]:
    """The converter says at every call that it goes on without statistics that nobody gives any more, and that a new way
    of calling it (which leaves the weights out of the file) is preferred."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
