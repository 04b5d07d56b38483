"""What the command line and Python users call: one module per command, its public names here."""

from decascade.api.common import Border, InputShape, Policy, Progress
from decascade.api.inspecting import inspect
from decascade.api.merging import MergeResult, merge
from decascade.api.places import check_output, check_report
from decascade.api.verifying import verify

__all__ = [
    "Border", "InputShape", "MergeResult", "Policy", "Progress", "check_output", "check_report", "inspect", "merge", "verify",
]
