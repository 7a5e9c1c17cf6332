"""`python -m tools.newer [PYTEST ARGUMENTS]`: the tests once more, on each newer Python that this machine has.

Each has its own virtual environment, .venvs/3.N, kept for the next run. Finding none is reported, and is a success.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAME = re.compile(r"python3\.(\d+)")
ASK = """
import json, sys, sysconfig
print(json.dumps([*sys.version_info[:4], sysconfig.get_config_var("Py_GIL_DISABLED")]))
"""
Version = tuple[int, int]


def candidates() -> Iterator[Path]:
    """All commands python3.N in $PATH, and pyenv's versions, whose own commands in $PATH are only shims."""
    places = [Path(entry) for entry in os.environ.get("PATH", "").split(os.pathsep) if entry]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for place in [*places, *sorted(pyenv.glob("versions/*/bin"))]:
        if place.is_dir():
            yield from sorted(path for path in place.iterdir() if NAME.fullmatch(path.name))


def version_of(python: Path) -> Version | None:
    """The version; None: it does not run, is not a release, or has no global lock."""
    try:
        done = subprocess.run([python, "-c", ASK], capture_output=True, timeout=20, check=True)
        major, minor, _, level, is_free = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return (major, minor) if level == "final" and not is_free else None


def newer(than: Version, paths: Iterable[Path]) -> dict[Version, Path]:
    """The first of `paths` for each version newer than `than`, the oldest version first."""
    found: dict[Version, Path] = {}
    for path in paths:
        name = NAME.fullmatch(path.name)
        is_newer = name is not None and (3, int(name[1])) > than
        if is_newer and (version := version_of(path)) is not None and version > than:
            found.setdefault(version, path)
    return dict(sorted(found.items()))


def environment(version: Version, python: Path) -> Path:
    """The interpreter of the virtual environment of that version, with the project installed as it stands now."""
    place = ROOT / ".venvs" / f"{version[0]}.{version[1]}"
    own, stamp = place / "bin" / "python", place / ".installed"
    if version_of(own) != version:
        subprocess.run([python, "-m", "venv", "--clear", place], check=True)
    if not stamp.exists() or stamp.stat().st_mtime < (ROOT / "pyproject.toml").stat().st_mtime:
        pip = [own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--editable", ".[dev]"]
        subprocess.run(pip, cwd=ROOT, check=True)
        stamp.touch()
    return own


def run(version: Version, python: Path, arguments: list[str]) -> bool:
    """Whether the tests pass there."""
    name, begin = f"Python {version[0]}.{version[1]}", time.monotonic()
    print(f"{name}: {python}", flush=True)
    try:
        own = environment(version, python)
        done = subprocess.run([own, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments], cwd=ROOT, check=False)
        came = "passed" if done.returncode == 0 else f"pytest ended with exit code {done.returncode}"
    except (OSError, subprocess.SubprocessError) as error:
        came = f"no environment to test in: {error}"
    print(f"{name}: {came}, after {time.monotonic() - begin:.0f} s", flush=True)
    return came == "passed"


def main(arguments: list[str]) -> int:
    """The exit code: 1 if the tests fail on any version."""
    here = sys.version_info[:2]
    found = newer(here, candidates())
    if not found:
        print(f"no Python newer than {here[0]}.{here[1]} here: nothing to test on")
        return 0
    failed = [version for version, python in found.items() if not run(version, python, arguments)]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
