"""Any facts as plain text of 80 columns."""

from __future__ import annotations

from decascade.report.facts.bench import BenchFacts
from decascade.report.facts.device import ExportFacts
from decascade.report.facts.load import Facts
from decascade.report.facts.report import ProofFacts, VerificationFacts
from decascade.report.terminal.bench import bench_text
from decascade.report.terminal.device import export_text
from decascade.report.terminal.report import report_text, verification_text
from decascade.report.terminal.validity import proofs_text


def text_of(facts: Facts) -> str:
    """What `str` gives."""
    match facts:
        case BenchFacts():
            return bench_text(facts)
        case ExportFacts():
            return export_text(facts)
        case ProofFacts():
            return proofs_text(facts)
        case VerificationFacts():
            return verification_text(facts)
        case _:
            return report_text(facts)
