"""Files that only one node sees, bind-mounted from the run directory in a mount namespace of its own."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from oxyctl.errors import OxyctlError
from oxyctl.net.namespaces import Namespaces
from oxyctl.net.syscalls import MS_BIND, MS_NODEV, MS_NOSUID, MS_REC, bind, mount


def show_files(node: str, files: Mapping[str, str], namespaces: Namespaces) -> None:
    """Bind-mount each of `files` (source by path) inside `node`. OxyctlError: impossible; it names the path."""
    created: set[Path] = set()
    with namespaces.new_mounts(node):
        for path, source in files.items():
            try:
                _bind_file(Path(path), source, created)
            except OSError as error:
                raise OxyctlError(f"node '{node}': cannot mount a file at {path}: {error.strerror}") from None


def show_file(path: Path, source: Path) -> None:
    """Bind-mount the file `source` at `path` in the calling thread's mount namespace. OSError: impossible."""
    _bind_file(path, str(source), set())


def _bind_file(path: Path, source: str, created: set[Path]) -> None:
    target = Path(os.path.realpath(path))
    if not target.exists():
        parent = next(each for each in target.parents if each.exists())
        if parent not in created:
            _replace_with_tmpfs(parent)
        missing = [each for each in target.parents if not each.exists()]
        target.parent.mkdir(parents=True, exist_ok=True)
        created.update([parent, *missing])
        target.touch()
    bind(source, target)


def _replace_with_tmpfs(directory: Path) -> None:
    """Replace `directory` by a tmpfs with the same entries in this mount namespace, so that new files stay in it."""
    if directory == Path("/"):
        raise OSError(0, "its directory must exist")
    with os.scandir(directory) as iterator:
        entries = list(iterator)
    mode = stat.S_IMODE(directory.stat().st_mode)
    before = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mount("tmpfs", directory, "tmpfs", MS_NOSUID | MS_NODEV, f"mode={mode:o}")
        for entry in entries:
            _copy_entry(f"/proc/self/fd/{before}/{entry.name}", directory / entry.name)
    finally:
        os.close(before)


def _copy_entry(old: str, new: Path) -> None:
    if os.path.islink(old):
        new.symlink_to(os.readlink(old))
    elif os.path.isdir(old):
        new.mkdir()
        mount(old, new, flags=MS_BIND | MS_REC)
    else:
        new.touch()
        bind(old, new)
