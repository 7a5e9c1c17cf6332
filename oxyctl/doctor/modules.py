"""Kernel modules: whether this machine has a module that is not loaded, and which package provides it."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

MODULES = Path("/lib/modules")
UBUNTU = "ubuntu"


def module_fix(module: str) -> str | None:
    """The command that provides `module`; None: only another kernel would."""
    release = os.uname().release
    if has_module(module, release):
        return f"sudo modprobe {module}"
    if _distribution() == UBUNTU:
        return f"sudo apt install linux-modules-extra-{release} && sudo modprobe {module}"
    return None


def has_module(module: str, release: str, modules: Path = MODULES) -> bool:
    """Whether the kernel `release` has a file for `module`; file names mix `-` and `_`."""
    wanted = re.compile(rf"/{module.replace('_', '[-_]')}\.ko", re.MULTILINE)
    for name in ("modules.dep", "modules.builtin"):
        try:
            if wanted.search((modules / release / name).read_text()):
                return True
        except OSError:
            continue
    return False


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("ID", "")
    except OSError:
        return ""
