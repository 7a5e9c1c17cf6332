"""A program inside a node, with pipes to its caller: `python -m oxyctl.operate.run_inside RUN NODE COMMAND...`.

`enter` moves the process that calls it into the lab, for good; a test or a check that goes on outside needs another.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from oxyctl.errors import OxyctlError
from oxyctl.operate.enter import NOT_EXECUTABLE, run_in
from oxyctl.supervise.state import LabDirectory


def command_in(lab: LabDirectory, node: str, command: Sequence[str]) -> list[str]:
    """The command that runs `command` in `node`: same input, output, environment, directory, and exit code."""
    return [sys.executable, "-P", "-m", "oxyctl.operate.run_inside", str(lab.path), node, *command]


def main(run: str, node: str, *command: str) -> int:
    """The exit code of `command`."""
    try:
        return run_in(LabDirectory(Path(run)), node, list(command))
    except OxyctlError as error:
        print(f"error: {error}", file=sys.stderr)
        return NOT_EXECUTABLE


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
