"""Runs a program inside a node, with pipes to the caller: `python -m oxyctl.operate.run_inside RUN NODE COMMAND...`.

`enter` moves its own process into the lab permanently; tests and checks that continue outside need another process.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from oxyctl.errors import OxyctlError
from oxyctl.operate.enter import NOT_EXECUTABLE, run_in
from oxyctl.supervise.state import LabDirectory


def command_in(lab: LabDirectory, node: str, command: Sequence[str]) -> list[str]:
    """The command that runs `command` in `node` with the same input, output, environment, directory and exit code."""
    return [sys.executable, "-P", "-m", "oxyctl.operate.run_inside", str(lab.path), node, *command]


def main(run: str, node: str, *command: str) -> int:
    """Run `command` in a node; return its exit code."""
    try:
        return run_in(LabDirectory(Path(run)), node, list(command))
    except OxyctlError as error:
        print(f"error: {error}", file=sys.stderr)
        return NOT_EXECUTABLE


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
