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


def find_file(said: str | None) -> Path:
    """The lab file that was meant: a path, the name of a bundled lab, or nothing, which is ./lab.yaml.

    Without a ./lab.yaml, nothing is the quickstart. UsageError when a name is unknown; a path is returned as it is.
    """
    if said is None:
        return DEFAULT_FILE if DEFAULT_FILE.exists() else find_file(DEFAULT_LAB)
    path = Path(said)
    if os.path.exists(said) or "/" in said or path.suffix:
        return path
    known = {file.stem: file for library in reversed(LIBRARIES) for file in library.glob("*.yaml")}
    if said not in known:
        raise UsageError(f"no file and no lab is called '{said}'{suggest(said, known)}")
    return known[said]
