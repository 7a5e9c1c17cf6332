"""Runs sshd as a user other than root, in its own user namespace: a rootless lab has only one user, and as root sshd
would need a second one to drop privileges to. Run as a script, so it imports nothing from the project.

unprivileged.py DIRECTORY SHELL NAMES PROGRAM ARGUMENTS...   NAMES: accounts, separated by commas; all have one user id

DIRECTORY gets the files `passwd`, `group` and `shadow`, which the program sees in place of the system's.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
ACCOUNT = 1000  # user and group id inside
_libc = ctypes.CDLL(None, use_errno=True)


def enter() -> None:
    """Enter a user namespace where we are `ACCOUNT`, and a mount namespace."""
    user, group = os.geteuid(), os.getegid()
    _check(_libc.unshare(CLONE_NEWUSER | CLONE_NEWNS))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{ACCOUNT} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{ACCOUNT} {group} 1")
    _check(_libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None))


def mount_accounts(directory: Path, shell: str, names: list[str]) -> None:
    """Mount our account files over the system's."""
    ours, theirs = os.openpty()
    terminals = os.fstat(theirs).st_gid  # sshd may not give terminals to the group `tty`
    os.close(ours)
    os.close(theirs)
    accounts = [f"{name}:x:{ACCOUNT}:{ACCOUNT}::{directory}:{shell}" for name in names]
    (directory / "passwd").write_text("\n".join([*accounts, ""]))
    (directory / "group").write_text(f"users:x:{ACCOUNT}:\ntty:x:{terminals}:\n")
    no_password = [f"{name}:NP:::::::" for name in names]  # in the system's, root may be locked
    (directory / "shadow").write_text("\n".join([*no_password, ""]))
    for name in ("passwd", "group", "shadow"):
        if os.path.exists(f"/etc/{name}"):
            _check(_libc.mount(os.fsencode(directory / name), f"/etc/{name}".encode(), None, MS_BIND, None))


def _check(result: int) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def main(arguments: list[str]) -> None:
    """Execute the program. If the kernel does not allow it, exit with status 1 and a one-line explanation."""
    directory, shell, names, program, *rest = arguments
    try:
        enter()
        mount_accounts(Path(directory), shell, names.split(","))
        os.execv(program, [program, *rest])
    except OSError as error:
        sys.exit(f"sshd: {error.strerror}: a user namespace of its own is needed")


if __name__ == "__main__":
    main(sys.argv[1:])
