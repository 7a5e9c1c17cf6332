"""Finds lab files by name: a path, a bundled lab, or the default."""

from __future__ import annotations

import os
import site
import sys
from pathlib import Path

from oxyctl.errors import UsageError
from proxy.settings import suggest

INSTALLED = Path("share", "oxyctl", "labs")
LIBRARIES = (Path(__file__).parents[2] / "labs", sys.prefix / INSTALLED, site.getuserbase() / INSTALLED)
DEFAULT_FILE, DEFAULT_LAB = Path("lab.yaml"), "quickstart"


def find_file(text: str | None) -> Path:
    """The lab file that `text` means: a path, or the name of a bundled lab.

    None means ./lab.yaml, and without one the quickstart. A path is returned as it is. UsageError: unknown name.
    """
    if text is None:
        return DEFAULT_FILE if DEFAULT_FILE.exists() else find_file(DEFAULT_LAB)
    path = Path(text)
    if os.path.exists(text) or "/" in text or path.suffix:
        return path
    known = {file.stem: file for library in reversed(LIBRARIES) for file in library.glob("*.yaml")}
    if text not in known:
        raise UsageError(f"no file and no bundled lab has the name '{text}'{suggest(text, known)}")
    return known[text]
