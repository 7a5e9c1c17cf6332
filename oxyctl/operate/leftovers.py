"""Finds what is left of labs that were not taken down, and what of it is provably ours to delete."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

import msgspec

from oxyctl.errors import OxyctlError
from oxyctl.supervise.state import LabDirectory, locked, run_directory

MARKS = {"state.json", "plan.json", "log"}  # `up` makes a log directory first of all
MOUNTS = Path("/proc/self/mountinfo")
ESCAPE = re.compile(r"\\([0-7]{3})")  # as mountinfo writes blanks (proc_pid_mountinfo(5))


class Remains(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """The directory of a lab that is gone, or the lock of one that left nothing else."""

    path: str
    kept: str | None = None  # why it was left alone


def collect(*, dry_run: bool) -> list[Remains]:
    """Delete what labs that are gone have left. Labs that are being built or taken down are skipped."""
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
                lock.unlink()  # who waits for it looks whether it is still there
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
    """Why the directory of `lab` is not provably ours to delete; None when it is."""
    if lab.path.is_symlink():
        return "it is a symbolic link"
    if not lab.path.is_dir():
        return "it is no directory"
    if lab.path.lstat().st_uid != os.geteuid():
        return "it belongs to another user"
    names = {entry.name for entry in _entries(lab.path)}
    if names and not names & MARKS:
        return "it does not look like a lab's: " + ", ".join(sorted(names)[:3])
    if (mounted := _mount_below(lab.path)) is not None:
        return f"something is mounted at {mounted}"
    return None


def delete(lab: LabDirectory) -> bool:
    """Delete the files of a lab that is not alive; the caller holds its lock. Whether there were any.

    OxyctlError when they are not provably ours. Symbolic links go, what they point at stays.
    """
    if not os.path.lexists(lab.path):
        return False
    if (reason := foreign(lab)) is not None:
        raise OxyctlError(f"{lab.path} is left alone: {reason}")
    try:
        # the proof that it is ours is deleted last, so that a killed run leaves something identifiable
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
    """Something that is mounted here, outside of the lab's own mounts, would be deleted with it."""
    real = os.path.realpath(path)
    for line in MOUNTS.read_text().splitlines():
        point = ESCAPE.sub(lambda match: chr(int(match[1], 8)), line.split()[4])
        if point == real or point.startswith(real + "/"):
            return point
    return None
