"""What the search for witnesses remembers between its rounds."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from decascade.bounds.witness.restarts import Restarts


@dataclass(eq=False)
class WitnessSearch:
    """`batch`, `widest`: how many inputs are run together, as a rule and where one is as good as many.  `rounds`: how often
    each activation's channels without a witness were pushed.  `restarts`: where those start again."""

    rng: np.random.Generator
    batch: int = 32
    widest: int = 32
    rounds: dict[str, int] = field(default_factory=dict[str, int])
    restarts: Restarts = field(default_factory=Restarts)
