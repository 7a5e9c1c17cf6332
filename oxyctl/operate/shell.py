"""`shell`: the user's own shell inside a node, with a prompt that says where one is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from oxyctl.operate.enter import Start
from oxyctl.supervise.state import LabDirectory, write_atomically

BASHRC = """\
[ -f /etc/bash.bashrc ] && . /etc/bash.bashrc
[ -f ~/.bashrc ] && . ~/.bashrc
PS1="($OXYCTL_LAB $OXYCTL_NODE) ${PS1:-\\\\$ }"
"""


def shell_in(lab: LabDirectory, node: str) -> Start:
    """$SHELL, or sh without it. OSError: its file cannot be written.

    bash would reset its prompt, so it reads a file of ours after the user's. Other shells take PS1 as it
    is, or show the host's name, which is the node's.
    """
    said = shutil.which(os.environ.get("SHELL") or "sh") or "/bin/sh"
    if Path(said).name != "bash":
        return Start([said, "-i"], {"PS1": f"({lab.name} {node}) $ "})
    file = lab.path / "shell.bashrc"
    write_atomically(file, BASHRC.encode())
    return Start([said, "--rcfile", str(file), "-i"])
