"""A program of its own: looks through a .keras or HDF5 file before anything else reads it, and prints what it found as JSON.

HDF5 may hang, crash or fill the memory on a damaged file, which only a process of its own survives.  It imports the standard
library and h5py, nothing of decascade, and is run with limits on its memory and its processor time: `gate.first`.

    python -I child.py FILE LIMITS        LIMITS: JSON with config_bytes, unpacked_bytes, child_bytes, seconds
"""

from __future__ import annotations

import json
import sys
import zipfile
from io import BytesIO
from math import prod
from typing import Any

WEIGHTS = "model.weights.h5"
FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 5: "nbit", 6: "scaleoffset", 32000: "lzf"}
"""Filters that come with h5py."""


class Refused(Exception):  # noqa: N818 - a finding about the file
    """Why a file is not read: the limit that it passes, or "" where it is damaged, and the words."""


def main(path: str, limits: dict[str, Any]) -> dict[str, Any]:
    """What was found: the count of stored numbers, or the limit and the words of a refusal."""
    bounded(limits)
    try:
        if not zipfile.is_zipfile(path):
            return {"numbers": weights(path, limits)}
        with zipfile.ZipFile(path) as archive:
            members(archive, limits)
            # what it lacks is said by the reader
            return {"numbers": weights(BytesIO(archive.read(WEIGHTS)), limits) if WEIGHTS in archive.namelist() else 0}
    except Refused as refusal:
        return {"limit": refusal.args[0], "words": refusal.args[1]}
    except MemoryError:
        return {"limit": "child_bytes", "words": "it needs more memory than is allowed to read it"}
    except Exception:  # a damaged file: the reader, which comes next, has the words for it
        return {"numbers": 0}


def bounded(limits: dict[str, Any]) -> None:
    """Limits this process, where the system can."""
    try:
        import resource
    except ImportError:
        return
    seconds = int(limits["seconds"])
    for kind, most in ((resource.RLIMIT_AS, int(limits["child_bytes"])), (resource.RLIMIT_CPU, seconds)):
        resource.setrlimit(kind, (most, most))


def members(archive: zipfile.ZipFile, limits: dict[str, Any]) -> None:
    """Every member once, and none too large."""
    names = archive.namelist()
    if twice := next((name for name in names if names.count(name) > 1), None) if len(names) < 10_000 else "":
        raise Refused("", f"its entry {twice!r} is there twice, and nothing says which one counts")
    total = sum(entry.file_size for entry in archive.infolist())
    if total > limits["unpacked_bytes"]:
        raise Refused("unpacked_bytes", f"its entries unpack to {total:,} bytes")
    for name in ("config.json", "metadata.json"):
        if name in names and (size := archive.getinfo(name).file_size) > limits["config_bytes"]:
            raise Refused("config_bytes", f"its entry {name} has {size:,} bytes")


def weights(source: Any, limits: dict[str, Any]) -> int:
    """How many numbers all arrays of an HDF5 file have together, each object looked at once."""
    import h5py  # type: ignore[import-untyped]

    h5: Any = h5py
    numbers = total = 0
    with h5.File(source, "r") as file:
        config: Any = file.attrs.get("model_config", b"")
        if len(config) > limits["config_bytes"]:
            raise Refused("config_bytes", f"its model_config has {len(config):,} bytes")
        stack: list[Any] = [file["/"]]
        seen = set[int]()
        while stack:
            group = stack.pop()
            for name in group:
                if not isinstance(group.get(name, getlink=True), h5.HardLink):
                    continue  # refused by the reader, which follows none either
                child = group[name]
                address = h5.h5o.get_info(child.id).addr
                if address in seen:
                    continue
                seen.add(address)
                if isinstance(child, h5.Group):
                    stack.append(child)
                elif isinstance(child, h5.Dataset) and not child.external and not child.is_virtual:
                    numbers += (size := prod(child.shape or ()))
                    total += size * child.dtype.itemsize
                    if total > limits["unpacked_bytes"]:
                        raise Refused("unpacked_bytes", f"its arrays unpack to more than {total:,} bytes")
                    stored(child)
    return numbers


def stored(array: Any) -> None:
    """The filters of an array, and that its data are whole where there are any."""
    listed = array.id.get_create_plist()
    for index in range(listed.get_nfilters()):
        if (code := listed.get_filter(index)[0]) not in FILTERS:
            raise Refused("", f"the array {array.name} is packed by the filter {code}, which is none of HDF5's own")
    if listed.get_nfilters():
        array[()]


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], json.loads(sys.argv[2]))))
