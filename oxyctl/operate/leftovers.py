"""Finds files of labs that were not taken down, and deletes those that provably belong to them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

import msgspec

from oxyctl.errors import OxyctlError
from oxyctl.supervise.state import LabDirectory, locked, run_directory

MARKS = {"state.json", "plan.json", "log"}  # `up` creates the log directory first
MOUNTS = Path("/proc/self/mountinfo")
ESCAPE = re.compile(r"\\([0-7]{3})")  # how mountinfo writes spaces (proc_pid_mountinfo(5))


class Remains(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """The directory of a lab that has ended, or its lock if nothing else is left."""

    path: str
    kept: str | None = None  # why it was not deleted


def collect(*, dry_run: bool) -> list[Remains]:
    """Delete the files of labs that have ended. Labs that are being built or taken down are skipped."""
    base = run_directory()
    names = {entry.name for part in ("labs", "locks") for entry in _entries(base / part)}
    found = []
    for name in sorted(names):
        lab, lock = LabDirectory(base / "labs" / name), base / "locks" / name
        is_old = os.path.lexists(lock)
        if is_old and not _is_lock(lock):
            continue
        with contextlib.suppress(BlockingIOError), locked(name, wait=False):
            if lab.live_state() is not None:
                continue
            remains = _collect_lab(lab, dry_run)
            is_over = not any(each.kept for each in remains)
            found += remains + ([Remains(path=str(lock))] if is_old and is_over else [])
            if not is_old or (is_over and not dry_run):
                lock.unlink()  # processes that wait for it check whether it still exists
    return found


def _is_lock(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size == 0


def _collect_lab(lab: LabDirectory, dry_run: bool) -> list[Remains]:
    if not os.path.lexists(lab.path):
        return []
    kept = foreign(lab)
    if kept is None and not dry_run:
        delete(lab)
    return [Remains(path=str(lab.path), kept=kept)]


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def foreign(lab: LabDirectory) -> str | None:
    """Why the directory of `lab` must not be deleted; None: it is provably a lab's."""
    if lab.path.is_symlink():
        return "it is a symbolic link"
    if not lab.path.is_dir():
        return "it is not a directory"
    if lab.path.lstat().st_uid != os.geteuid():
        return "it belongs to another user"
    names = {entry.name for entry in _entries(lab.path)}
    if names and not names & MARKS:
        return "it does not look like a lab's: " + ", ".join(sorted(names)[:3])
    if (mounted := _mount_below(lab.path)) is not None:
        return f"something is mounted at {mounted}"
    return None


def delete(lab: LabDirectory) -> bool:
    """Delete the files of a lab that is not running; the caller holds its lock. Returns whether there were any.

    OxyctlError: they are not provably a lab's. Symbolic links are deleted, not their targets.
    """
    if not os.path.lexists(lab.path):
        return False
    if (reason := foreign(lab)) is not None:
        raise OxyctlError(f"{lab.path} is not deleted: {reason}")
    try:
        # files that identify a lab are deleted last, so that an interrupted run can be repeated
        for entry in sorted(_entries(lab.path), key=lambda entry: entry.name in MARKS):
            _delete_entry(entry)
        lab.path.rmdir()
    except OSError as error:
        raise OxyctlError(f"cannot delete {error.filename}: {error.strerror}") from None
    return True


def _delete_entry(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _mount_below(path: Path) -> str | None:
    """A mount point at or below `path`, whose files would be deleted as well; None: there is none."""
    real = os.path.realpath(path)
    for line in MOUNTS.read_text().splitlines():
        point = ESCAPE.sub(lambda match: chr(int(match[1], 8)), line.split()[4])
        if point == real or point.startswith(real + "/"):
            return point
    return None
