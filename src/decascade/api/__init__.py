"""What the command line and Python users call: one module per command, its public names here."""

from decascade.api.benching import bench
from decascade.api.common import Border, InputShape, Policy, Progress
from decascade.api.compressing import CompressResult, compress, plan
from decascade.api.exporting import export
from decascade.api.inspecting import inspect
from decascade.api.merging import MergeResult, merge
from decascade.api.places import check_output, check_page, check_report
from decascade.api.stages import DistillResult, SegmentFit, distill, fit_segment
from decascade.api.tables import table_template
from decascade.api.verifying import recheck_certificate, verify

__all__ = [
    "Border", "CompressResult", "DistillResult", "InputShape", "MergeResult", "Policy", "Progress", "SegmentFit",
    "bench", "check_output", "check_page", "check_report", "compress", "distill", "export", "fit_segment",
    "inspect", "merge", "plan", "recheck_certificate", "table_template", "verify",
]
