"""TFLite files run in LiteRT, with its reference kernels or with the ones it would use itself, on one thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.deploy.tools import module
from decascade.errors import UsageError

USE = "running a TFLite file"


@dataclass(frozen=True, eq=False)
class Port:
    """An input or output of a file: its shape, element type, and real value = scale·(stored − zero)."""

    shape: tuple[int, ...]
    dtype: Any
    scale: float
    zero: int

    def stored(self, real: NDArray[Any]) -> NDArray[Any]:
        """Real values as the file takes them: rounded half to even, clamped, as TFLite's own quantise does."""
        if not self.scale:
            return np.ascontiguousarray(real, self.dtype)
        kind = np.iinfo(self.dtype)
        steps = np.rint(np.asarray(real, np.float64) / self.scale) + self.zero
        return np.clip(steps, kind.min, kind.max).astype(self.dtype)

    def real(self, stored: NDArray[Any]) -> NDArray[Any]:
        """What stored values stand for."""
        if not self.scale:
            return stored
        return ((stored.astype(np.int64) - self.zero) * np.float64(self.scale)).astype(np.float32)


class Model:
    """A TFLite file ready to run, one sample at a time.

    `reference`: the plain kernels of the specification instead of the optimised ones.  `keep`: intermediate results too.

    Raises:
        UsageError: LiteRT is not installed, or does not accept the file.
    """

    def __init__(self, data: bytes, reference: bool = False, keep: bool = False) -> None:
        litert = module("ai_edge_litert.interpreter", USE)
        kinds = litert.OpResolverType
        kind = kinds.BUILTIN_REF if reference else kinds.AUTO
        try:
            self._interpreter: Any = litert.Interpreter(
                model_content=data, num_threads=1, experimental_op_resolver_type=kind,
                experimental_preserve_all_tensors=keep,
            )
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise UsageError(f"LiteRT does not accept the file: {' '.join(str(error).split())[:300]}") from None
        self._inputs: list[Any] = self._interpreter.get_input_details()
        self._outputs: list[Any] = self._interpreter.get_output_details()
        self.inputs = tuple(_port(d) for d in self._inputs)
        self.outputs = tuple(_port(d) for d in self._outputs)

    def run(self, stored: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs as the file stores them, for inputs as it stores them."""
        for details, array in zip(self._inputs, stored, strict=True):
            self._interpreter.set_tensor(details["index"], array)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(details["index"]) for details in self._outputs]

    def invoke(self) -> None:
        """Run on what the inputs hold: what is timed."""
        self._interpreter.invoke()

    def results(self) -> list[tuple[str, int, NDArray[Any]]]:
        """After a run with `keep`: every operation's kind, and index and value of its first output, in order."""
        found = list[tuple[str, int, NDArray[Any]]]()
        for operation in self._interpreter._get_ops_details():
            index = int(operation["outputs"][0])
            found.append((operation["op_name"], index, self._interpreter.get_tensor(index)))
        return found

    @property
    def operations(self) -> list[str]:
        """The kinds of its operations, in order."""
        return [d["op_name"] for d in self._interpreter._get_ops_details()]


def _port(details: Any) -> Port:
    parameters = details["quantization_parameters"]
    scales, zeros = parameters["scales"], parameters["zero_points"]
    scale, zero = (float(scales[0]), int(zeros[0])) if len(scales) else (0.0, 0)
    return Port(tuple(int(n) for n in details["shape"]), details["dtype"], scale, zero)
