"""The command line: typer over `api`, no logic; one module per command.  Exit codes: 0 done, 1 a bug, 2 bad usage or input,
3 a promise not kept."""

# in the order of the help
from decascade.cli import inspecting, merging, compressing, verifying, exporting, benching, tabling, reporting  # noqa: I001
from decascade.cli.app import app
from decascade.cli.shell import main, run

COMMANDS = (inspecting, merging, compressing, verifying, exporting, benching, tabling, reporting)

__all__ = ["COMMANDS", "app", "main", "run"]
