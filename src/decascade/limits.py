"""What one model or data file may ask of this machine: a single value for all readers.  See SECURITY.md."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1 << 30


@dataclass(frozen=True)
class Limits:
    """Bounds on what reading a file may take; a file past one of them is refused by a `LimitExceededError`, never cut short.

    `unpacked_bytes`: of all members of an archive, or all arrays of a file, together.  `constant_bytes`: of all constants
    that folding makes, together.  `elements`: of a single tensor, also of one that is only stated.  `nodes`: operations
    after local functions were expanded.  `nesting`: depth of subgraphs, functions, nested layers or JSON.
    `config_bytes`: of a JSON config, a plan or a table.  `pixels`: of an image.  `seconds`: processor time of reading a
    file.  `child_bytes`: address space of the child process in which HDF5 and Keras files are first read.
    """

    unpacked_bytes: int = 4 * GIB
    constant_bytes: int = 1 * GIB
    elements: int = 1 << 31
    nodes: int = 200_000
    nesting: int = 64
    config_bytes: int = 16 << 20
    pixels: int = 1 << 27
    seconds: float = 60.0
    child_bytes: int = 8 * GIB


LIMITS = Limits()
