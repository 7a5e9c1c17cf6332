"""`shell`: the user's shell inside a node, with the lab and the node in its prompt."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from oxyctl.operate.enter import Invocation
from oxyctl.supervise.state import LabDirectory, write_atomically

BASHRC = """\
[ -f /etc/bash.bashrc ] && . /etc/bash.bashrc
[ -f ~/.bashrc ] && . ~/.bashrc
PS1="($OXYCTL_LAB $OXYCTL_NODE) ${PS1:-\\\\$ }"
"""


def shell_in(lab: LabDirectory, node: str) -> Invocation:
    """The invocation of $SHELL, by default sh. OSError: its startup file cannot be written.

    bash would reset its prompt, so it reads a file of ours after the user's. Other shells use PS1, or show the host's
    name, which is the node's.
    """
    shell = shutil.which(os.environ.get("SHELL") or "sh") or "/bin/sh"
    if Path(shell).name != "bash":
        return Invocation([shell, "-i"], {"PS1": f"({lab.name} {node}) $ "})
    file = lab.path / "shell.bashrc"
    write_atomically(file, BASHRC.encode())
    return Invocation([shell, "--rcfile", str(file), "-i"])
