"""Files that only one node sees: a mount namespace of its own, in which each path shows a file of the run directory."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from oxyctl.errors import OxyctlError
from oxyctl.net.namespaces import Namespaces
from oxyctl.net.syscalls import MS_BIND, MS_NODEV, MS_NOSUID, MS_REC, bind, mount


def show_files(node: str, files: Mapping[str, str], namespaces: Namespaces) -> None:
    """Let each path of `files`, inside `node`, show the file that it names. OxyctlError says which cannot be shown."""
    made: set[Path] = set()
    with namespaces.new_mounts(node):
        for path, source in files.items():
            try:
                _show(Path(path), source, made)
            except OSError as error:
                raise OxyctlError(f"node '{node}': cannot show a file at {path}: {error.strerror}") from None


def show_file(path: Path, source: Path) -> None:
    """Let `path`, in the calling thread's mount namespace, show the file `source`. OSError: it cannot."""
    _show(path, str(source), set())


def _show(path: Path, source: str, made: set[Path]) -> None:
    target = Path(os.path.realpath(path))
    if not target.exists():
        parent = next(each for each in target.parents if each.exists())
        if parent not in made:
            _make_own(parent)
        missing = [each for each in target.parents if not each.exists()]
        target.parent.mkdir(parents=True, exist_ok=True)
        made.update([parent, *missing])
        target.touch()
    bind(source, target)


def _make_own(directory: Path) -> None:
    """Make `directory` one of this mount namespace, with all that was in it: there new names harm nobody outside."""
    if directory == Path("/"):
        raise OSError(0, "its directory must exist")
    with os.scandir(directory) as found:
        entries = list(found)
    mode = stat.S_IMODE(directory.stat().st_mode)
    before = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mount("tmpfs", directory, "tmpfs", MS_NOSUID | MS_NODEV, f"mode={mode:o}")
        for entry in entries:
            _keep(f"/proc/self/fd/{before}/{entry.name}", directory / entry.name)
    finally:
        os.close(before)


def _keep(old: str, new: Path) -> None:
    if os.path.islink(old):
        new.symlink_to(os.readlink(old))
    elif os.path.isdir(old):
        new.mkdir()
        mount(old, new, flags=MS_BIND | MS_REC)
    else:
        new.touch()
        bind(old, new)
