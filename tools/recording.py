"""The README's picture of a terminal, made from the real output of commands: `python -m tools.recording`.

A lab of its own comes up, traffic passes, its flows are listed, and it is taken down; the first command that fails ends
it, so that the picture never shows a command that does not work.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

FILE = Path(__file__).parents[1] / "docs" / "images" / "terminal.svg"
COLUMNS = 100
COMMANDS = (
    "lab up quickstart",
    "lab exec laptop -- curl -sS http://web/",
    "lab exec laptop -- ping -c1 web",
    "traffic http laptop http://web/ --count 200",
    "flows --tenant acme --limit 4 --fields protocol,source,destination,client_bytes,close_reason",
    "lab check",
    "lab down",
)
PYTHON = [sys.executable, "-m", "oxyctl"]


def record(commands: tuple[str, ...] = COMMANDS) -> str:
    """A terminal as SVG in which `oxyctl` ran `commands`, in a run directory of its own. RuntimeError: one failed."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    with tempfile.TemporaryDirectory() as run:
        environment = os.environ | {"OXYCTL_RUN_DIR": run, "COLUMNS": str(COLUMNS), "NO_COLOR": "1"}
        try:
            for command in commands:
                console.print(Text(f"$ oxyctl {command}", style="bold green"))
                console.print(Text(_run(command, environment).rstrip()))
        finally:
            subprocess.run([*PYTHON, "lab", "down", "--all"], env=environment, capture_output=True, check=False)
    return console.export_svg(title="oxyctl")


def _run(command: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [*PYTHON, *command.split()], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise RuntimeError(f"`oxyctl {command}` ended with exit code {done.returncode}:\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(record())
    print(FILE)
