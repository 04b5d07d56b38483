"""verify: are two models the same function."""

from __future__ import annotations

import numpy as np

from decascade.api.common import InputRange, InputShape, Progress, check_seed, read_model
from decascade.checking.data import load_data
from decascade.checking.models import Subject, compare
from decascade.checking.plan import plan, with_data
from decascade.checking.ranges import box_of, ranges
from decascade.checking.samples import DEFAULT, from_data
from decascade.report.facts import VerificationFacts


def verify(
    a: object, b: object, *, data: object = None, input_range: InputRange | None = None,
    input_shape: InputShape | None = None, seed: int = 0, progress: Progress | None = None,
) -> VerificationFacts:
    """Whether two models, of whatever formats, are the same function up to rounding; the worst error and where.

    `data`: an array, a mapping of input names to arrays, a `.npz` file with `x` or the input names, or a `.npy` file, in
    the layout of `a`; without it random inputs from `input_range` (default −1 to 1), its corners and single pixels.
    `input_shape`: as for `inspect`.

    Raises:
        FormatError: a model that cannot be read.
        UsageError: inputs or outputs that do not correspond, data that does not fit.
        VerificationError: `b` does not run on an input that `a` runs on.
    """
    check_seed(seed)
    first, second = Subject(*read_model(a, input_shape)), Subject(*read_model(b, input_shape))
    rng = np.random.default_rng(seed)
    if data is None:
        chosen = plan(first, DEFAULT if input_range is None else ranges(box_of(first, input_range)), rng)
    else:
        arrays = {name: first.from_native(name, array) for name, array in load_data(data, first.graph.inputs).items()}
        chosen = with_data(first, from_data(first.graph, arrays))
    return compare(first, second, chosen, rng, progress)
