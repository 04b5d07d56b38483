"""The outside tools of the device targets: found when they are first needed, and told by version."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from shutil import which
from typing import Any

from decascade.errors import UsageError
from decascade.frameworks import needed

PACKAGES = {
    "tensorflow": ("tensorflow-cpu", "tensorflow"),
    "ai_edge_litert.interpreter": ("ai-edge-litert",),
    "tflite_micro": ("tflite-micro",),
    "emx_onnx_cgen": ("emx-onnx-cgen",),
    "onnxruntime": ("onnxruntime",),
    "onnx": ("onnx",),
}
"""A module and the packages that may bring it; the first is the one to install."""
PROGRAMS = {"arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi", "qemu-system-arm": "qemu-system-arm"}
"""A program and Debian's packages that bring it."""


def module(name: str, use: str) -> Any:
    """A module of `PACKAGES`, imported.

    Raises:
        MissingPackageError: it cannot be imported; says what it is for and how it is installed.
    """
    if name == "tensorflow":
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return needed(name, use)


def program(name: str, use: str) -> str:
    """The path of a program of `PROGRAMS`.

    Raises:
        UsageError: it is not installed; says how it is.
    """
    found = which(name)
    if found is None:
        raise UsageError(
            f"{use} needs {name}, which is not installed: run scripts/install-device-tools.sh, or apt install {PROGRAMS[name]}"
        )
    return found


def version_of(name: str) -> str:
    """The installed version of what brings a module of `PACKAGES`; "" where none is."""
    for package in PACKAGES[name]:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return ""
