"""The learning rate of a training: the highest of a few at which the student does not first lose what its fit gave it.

A student that starts close to the original lies in a narrow valley: at a rate that suits a poor start its loss first rises,
and most of the training goes into coming back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from decascade.compression.distill.loop import Setting, Training
from decascade.compression.distill.state import State

RATES = (2e-3, 1e-3, 5e-4, 2.5e-4)
"""Highest learning rates of AdamW that are tried, in this order."""
STEPS = 32
"""Steps of a trial."""
SHARE = 0.1
"""Share of a limited time after which no further rate is tried."""


def suited_rate(setting: Setting, module: Any, optimizer: Callable[[float], Any]) -> float:
    """The first of `RATES` after whose trial the loss on the held-out samples is not above the start's, else the last.

    The module's weights are as before afterwards.
    """
    limit, start = setting.schedule.seconds, State(module, optimizer(RATES[0])).weights()
    answers, first = None, float("inf")
    for rate in RATES[:-1]:
        state = State(module, optimizer(rate))
        training = Training(setting, state, [rate] * len(state.optimizer.param_groups), answers=answers)
        if answers is None:
            first = training.judged()[0]
            if limit is not None and setting.clock.elapsed > SHARE * limit:
                return RATES[-1]
        training.walk(STEPS, None if limit is None else 2 * SHARE * limit)
        found, answers = training.judged()[0], training.answers or []
        state.take(start)
        if found <= first:
            return rate
        if limit is not None and setting.clock.elapsed > SHARE * limit:
            break
    return RATES[-1]
