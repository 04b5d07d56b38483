"""To be imported before anything else: one thread everywhere, paths, and the folders that scripts import from."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ[_name] = "1"

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PARTIAL = ROOT / "benchmarks" / ".partial"
MODELS = ROOT.parent / "shared" / "models"
DATA = ROOT.parent / "shared" / "data"

for _folder in (ROOT / "src", ROOT / "tests"):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

# peers speak of their own futures
warnings.filterwarnings("ignore")
