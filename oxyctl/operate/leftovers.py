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

LAB_FILES = {"state.json", "plan.json", "log"}  # `up` creates the log directory first
MOUNTS = Path("/proc/self/mountinfo")
ESCAPE = re.compile(r"\\([0-7]{3})")  # how mountinfo writes spaces (proc_pid_mountinfo(5))


class Leftover(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """The directory of a lab that has ended, or its lock if nothing else is left."""

    path: str
    kept: str | None = None  # why it was not deleted


def collect(*, dry_run: bool) -> list[Leftover]:
    """Delete the files of labs that have ended. Labs that are being built or taken down are skipped."""
    base = run_directory()
    names = {entry.name for part in ("labs", "locks") for entry in _entries(base / part)}
    leftovers = []
    for name in sorted(names):
        lab, lock = LabDirectory(base / "labs" / name), base / "locks" / name
        had_lock = os.path.lexists(lock)
        if had_lock and not _is_lock(lock):
            continue
        with contextlib.suppress(BlockingIOError), locked(name, wait=False):
            if lab.live_state() is not None:
                continue
            lab_leftovers = _collect_lab(lab, dry_run)
            is_deleted = not any(each.kept for each in lab_leftovers)
            leftovers += lab_leftovers + ([Leftover(path=str(lock))] if had_lock and is_deleted else [])
            if not had_lock or (is_deleted and not dry_run):
                lock.unlink()  # processes that wait for it check whether it still exists
    return leftovers


def _is_lock(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size == 0


def _collect_lab(lab: LabDirectory, dry_run: bool) -> list[Leftover]:
    if not os.path.lexists(lab.path):
        return []
    kept = reason_to_keep(lab)
    if kept is None and not dry_run:
        delete(lab)
    return [Leftover(path=str(lab.path), kept=kept)]


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def reason_to_keep(lab: LabDirectory) -> str | None:
    """Why the directory of `lab` must not be deleted; None: it is provably a lab's."""
    if lab.path.is_symlink():
        return "it is a symbolic link"
    if not lab.path.is_dir():
        return "it is not a directory"
    if lab.path.lstat().st_uid != os.geteuid():
        return "it belongs to another user"
    names = {entry.name for entry in _entries(lab.path)}
    if names and not names & LAB_FILES:
        return "it does not look like a lab directory: " + ", ".join(sorted(names)[:3])
    if (mounted := _mount_below(lab.path)) is not None:
        return f"something is mounted at {mounted}"
    return None


def delete(lab: LabDirectory) -> bool:
    """Delete the files of a lab that is not running; the caller holds its lock. Returns whether there were any.

    OxyctlError: they are not provably a lab's. Symbolic links are deleted, not their targets.
    """
    if not os.path.lexists(lab.path):
        return False
    if (reason := reason_to_keep(lab)) is not None:
        raise OxyctlError(f"{lab.path} is not deleted: {reason}")
    try:
        # files that identify a lab are deleted last, so that an interrupted run can be repeated
        for entry in sorted(_entries(lab.path), key=lambda entry: entry.name in LAB_FILES):
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
