"""Run by `merging_is_linear_in_size.py` in a process of its own: peak memory of one merge.

    python peak.py WARM BIG OUT VERIFY     prints JSON: bytes before and at the peak, seconds
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from time import perf_counter

import decascade


def peak() -> int:
    """Largest resident size so far, in bytes.  Linux hands the rusage figure down from the parent process, so its own
    table is asked first."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(warm: str, big: str, out: str, verify: str) -> None:
    # a small model first: everything that a merge imports is there and counted as the baseline
    decascade.merge(warm, verify=bool(int(verify)))
    before, start = peak(), perf_counter()
    result = decascade.merge(big, verify=bool(int(verify)))
    result.save(out, force=True)
    rows = result.report.cascades
    print(json.dumps({
        "baseline": before, "peak": peak(), "seconds": perf_counter() - start,
        "merged": sum(c.decision == "merged" for c in rows), "left": sum(c.decision == "left" for c in rows),
    }))


if __name__ == "__main__":
    main(*sys.argv[1:])
