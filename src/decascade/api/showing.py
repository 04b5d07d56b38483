"""The inputs that show what is not linear, as a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np

from decascade.api.finding import Found
from decascade.bounds import Certificate
from decascade.checking.models import Subject, native_order
from decascade.checking.witnesses import Inputs, at_full_size
from decascade.errors import UsageError
from decascade.output import Item, check_place, write_all


def check_witnesses(path: Path, subject: Subject, ranged: bool, force: bool) -> None:
    """That witnesses can be looked for and put there; before any work is done.

    Raises:
        UsageError: no input range, or a name that is not an .npz file's.
        OutputError: the place is taken or cannot be written to.
    """
    if not ranged:
        raise UsageError("witnesses are looked for within an input range: give one (--input-range LO HI)")
    if path.suffix.lower() != ".npz":
        raise UsageError(f"witnesses {path}: they are stored as .npz: give a name that ends in .npz")
    source = subject.document.source
    check_place(path, [] if source is None else [source], force)


def with_witnesses(subject: Subject, found: Found, path: Path) -> Found:
    """The same, its witnesses referring to the inputs in the file, which are of the model's own size and layout.

    Raises:
        OutputError: the file cannot be written.
    """
    certificates, inputs = list[Certificate](), Inputs()
    for certificate in found.certificates:
        full = certificate
        if certificate.tier == "proven":
            full, inputs = at_full_size(subject.graph, certificate)
        certificates.append(full)
    arrays = {name: x.transpose(native_order(subject, name, x.ndim)) for name, x in inputs.items()}

    def write(place: Path) -> None:
        # by hand, as an input may be called "file", which np.savez takes for its own argument
        with ZipFile(place, "w", ZIP_DEFLATED) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)

    write_all([Item(path, write)])
    return replace(found, certificates=tuple(certificates))
