"""What the command line and Python users call: one module per command, its public names here."""

from decascade.api.common import Border, InputShape, Policy, Progress
from decascade.api.compressing import CompressResult, compress, plan
from decascade.api.exporting import export
from decascade.api.inspecting import inspect
from decascade.api.merging import MergeResult, merge
from decascade.api.places import check_output, check_page, check_report
from decascade.api.verifying import recheck_certificate, verify

__all__ = [
    "Border", "CompressResult", "InputShape", "MergeResult", "Policy", "Progress", "check_output", "check_page",
    "check_report", "compress", "export", "inspect", "merge", "plan", "recheck_certificate", "verify",
]
