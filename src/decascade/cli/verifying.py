"""decascade verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from decascade.cli.app import app
from decascade.cli.options import (
    MODEL,
    Data,
    Debug,
    Force,
    InputShapes,
    Json,
    ProveSeconds,
    Quiet,
    Range,
    RangeFile,
    ReportPath,
    Seed,
    chosen_range,
    chosen_shape,
)
from decascade.cli.show import progress_bar, show
from decascade.errors import UsageError, VerificationError
from decascade.report.facts.report import ProofFacts, VerificationFacts


@app.command()
def verify(
    a: Annotated[str, typer.Argument(metavar="A", help=MODEL, show_default=False)],
    b: Annotated[
        str | None,
        typer.Argument(
            metavar="[B]", show_default=False,
            help="Another, of any of these formats. Not needed where A has a certificate and what it was made of is beside it.",
        ),
    ] = None,
    data: Data = None, input_range: Range = None, input_range_file: RangeFile = None, input_shape: InputShapes = None,
    certificate: Annotated[
        Path | None,
        typer.Option(metavar="R.json", show_default=False, help="Prove again what this report of A claims of its activations."),
    ] = None,
    prove_seconds: ProveSeconds = 60.0, report: ReportPath = None, seed: Seed = 0, force: Force = False, quiet: Quiet = False,
    as_json: Json = False, debug: Debug = False,
) -> None:
    """Are two models the same function up to rounding? The worst error, and where. Exit code 3 if not.

    Where one carries a certificate of being equal to the other within an input range, inputs are drawn from that range, and
    all that the certificate claims is proved again from nothing. Exit code 3 if it cannot be.

    Examples:

        decascade verify model.onnx small.onnx

        decascade verify model.keras model.onnx --data samples.npz

        decascade verify model.onnx --certificate report.json
    """
    from decascade import api
    from decascade.output import Item, write_all
    from decascade.report.files import write_report
    from decascade.report.terminal.report import render_verification
    from decascade.report.terminal.validity import render_proofs

    if certificate is not None and b is not None:
        raise UsageError("--certificate is about one model: leave the second out")
    if report is not None:
        api.check_report(report, [Path(m) for m in (a, b, certificate) if m is not None], force)
    with progress_bar(quiet) as progress:
        limits, shape = chosen_range(input_range, input_range_file), chosen_shape(input_shape)
        if certificate is not None:
            found = api.recheck_certificate(
                a, certificate, data=data, input_range=limits, input_shape=shape, prove_seconds=prove_seconds, seed=seed,
                progress=progress)
        else:
            found = api.verify(
                a, b, data=data, input_range=limits, input_shape=shape, prove_seconds=prove_seconds, seed=seed,
                progress=progress)
    if report is not None:
        title = " and ".join(Path(m).name for m in (a, b) if m is not None)
        write_all([Item(report, lambda path: write_report(found, path, title))])
    names = (Path(a).name, Path(b).name) if b is not None else ("original", Path(a).name)
    try:
        show(found, lambda: render_proofs(found) if isinstance(found, ProofFacts) else render_verification(found, names), quiet,
             as_json)
    finally:
        _judge(found, a, b)


def _judge(found: ProofFacts | VerificationFacts, a: str, b: str | None) -> None:
    proofs = found if isinstance(found, ProofFacts) else found.proofs
    if isinstance(found, VerificationFacts) and not found.same:
        pair = f"{a} and {b}" if b is not None else f"{a} and the model that it was made of"
        raise VerificationError(f"{pair} are not the same function: {found.complaint}")
    if proofs is not None and not proofs.held:
        raise VerificationError(f"the certificate does not hold: {proofs.complaint}")
