"""Pages that are made when the documentation is built: the help of every command, the notebooks with their outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from html import escape
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

COMMANDS = "<!-- the help of every command is put here when the documentation is built -->"


def on_files(files: Files, config: Any) -> Files:
    """Every notebook becomes a page of its own."""
    for path in sorted((Path(config.docs_dir) / "notebooks").glob("*.ipynb")):
        page = as_markdown(json.loads(path.read_text(encoding="utf-8")), path.name)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The help of every command, as it prints it."""
    return markdown.replace(COMMANDS, all_help()) if COMMANDS in markdown else markdown


def all_help() -> str:
    from decascade.cli import app

    names = [command.callback.__name__ for command in app.registered_commands if command.callback is not None]
    return "\n\n".join(f"## decascade {name}\n\n```text\n{help_of(name)}\n```" for name in names)


def help_of(name: str) -> str:
    """The help of a command in plain text of 80 columns."""
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
    command = [sys.executable, "-m", "decascade", name, "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines())


def as_markdown(notebook: dict[str, Any], name: str) -> str:
    """Cells in order; of outputs the text, and reports as the frames that they are."""
    parts = list[str]()
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "text/html" in data:
                parts.append("".join(data["text/html"]))
            else:
                parts.append(f'<pre class="output">{escape("".join(data["text/plain"]))}</pre>')
    parts.append(f"[The notebook]({name}) itself.")
    return "\n\n".join(parts)
