"""Landlock: a process gives up access to files, TCP ports, and signals to other processes.

Needs no privilege and no library, but Linux 5.13 or later with Landlock enabled (landlock(7)).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on every architecture
CREATE_RULESET_VERSION = 1  # flag of CREATE_RULESET: return the kernel's ABI version
RULE_PATH_BENEATH = 1

# include/uapi/linux/landlock.h
READ_FILE, READ_DIR = 1 << 2, 1 << 3
FILES_OF_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
NETWORK_OF_ABI = {4: 0b11}  # bind and connect TCP
SCOPES_OF_ABI = {6: 0b11}  # abstract Unix sockets, and signals

_libc = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def abi() -> int:
    """The kernel's ABI version; 0 if it has no Landlock, or it is disabled."""
    return max(0, int(_libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), CREATE_RULESET_VERSION)))


def restrict(readable: Iterable[str]) -> None:
    """Restrict this thread, and all it starts, to reading files below `readable`.

    Needs `no_new_privs`. Paths that do not exist are skipped. OSError: the kernel refuses.
    """
    version = abi()
    if not version:
        raise OSError(95, "this kernel has no Landlock")
    handled = _Ruleset(*(_latest(each, version) for each in (FILES_OF_ABI, NETWORK_OF_ABI, SCOPES_OF_ABI)))
    size = 8 if version < 4 else 16 if version < 6 else 24  # older kernels have fewer fields
    ruleset = _call(CREATE_RULESET, ctypes.byref(handled), ctypes.c_size_t(size), 0)
    try:
        for path in readable:
            _allow(ruleset, path)
        _call(RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rights = READ_FILE | READ_DIR if os.path.isdir(path) else READ_FILE
        rule = _PathBeneath(rights, parent)
        _call(ADD_RULE, ruleset, RULE_PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(parent)


def _latest(rights: dict[int, int], version: int) -> int:
    """The rights of the newest ABI in `rights` up to `version`."""
    return max((mask for since, mask in rights.items() if since <= version), default=0)


def _call(number: int, *arguments: object) -> int:
    answer = _libc.syscall(number, *arguments)
    if answer < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(answer)
