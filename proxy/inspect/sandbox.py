"""The sandbox of an inspector, closed before it reads any untrusted byte.

In this order, since each step needs privileges that a later one drops: user ID, capabilities, files (Landlock), system
calls (seccomp). What could not be dropped is reported in words, and shown by `oxyctl status`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import resource
import ssl
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

from proxy.inspect import landlock, system_calls

PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 24, 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
CAPABILITY_VERSION_3 = 0x20080522
LAST_CAPABILITY = 63
DYNAMIC_USERS = range(61184, 65520)  # not assigned to accounts: systemd's range for dynamic users (UIDS-GIDS.md)

# Public files that are needed besides Python's modules: shared libraries, and the system's trusted certificates.
SYSTEM_FILES = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/etc/localtime",
    "/usr/share/ca-certificates", "/usr/local/share/ca-certificates", "/etc/ca-certificates",
    "/etc/pki/ca-trust/extracted",
)  # fmt: skip
# Libraries look up the user's name and home directory, and read files there.
USER_ENVIRONMENT = {"LOGNAME": "inspector", "HOME": "/nonexistent"}

_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def drop_privileges(*, logs_keys: bool = False) -> list[str]:
    """Close the sandbox. Returns what could not be dropped, in words; empty if everything was.

    `logs_keys`: the process may append to its own pipe, provided that Landlock denies it all files. The process must
    have a single thread, and have imported all that it needs: its new user may not be able to read it.
    """
    shortfalls = []
    with contextlib.suppress(ValueError, OSError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    _preload()
    os.environ.update(USER_ENVIRONMENT)
    readable = list(readable_paths())
    try:
        filters = {each: system_calls.make_filter(appends=each) for each in {False, logs_keys}}
    except ImportError:  # tried now, while libseccomp can still be loaded
        filters = {}
    _clear_bounding_set()
    if os.geteuid() == 0 and (why := _drop_root()) is not None:
        shortfalls.append(f"inspectors stay root: {why}")
    try:
        _drop_capabilities()
    except OSError as error:
        shortfalls.append(f"inspectors keep their capabilities: {error.strerror}")
    if _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        shortfalls.append("inspectors may gain privileges: no_new_privs is refused")
    try:
        landlock.restrict(readable)
    except OSError as error:
        shortfalls.append(f"inspectors may open files of user {os.geteuid()}: no Landlock ({error.strerror})")
        if logs_keys and filters:
            logs_keys = False
            shortfalls.append("secrets of TLS sessions are not logged: without Landlock that would open every file")
    if not filters:
        missing = "pyseccomp or libseccomp is missing (pip install 'oxyctl[seccomp]')"
        shortfalls.append(f"inspectors may make any system call: {missing}")
    else:
        try:
            filters[logs_keys]()
        except OSError as error:
            shortfalls.append(f"inspectors may make any system call: {error}")
    return shortfalls


def readable_paths() -> Iterator[str]:
    """The paths that an inspector may still read. Never the working directory, which may hold keys."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    yield from {path for name in names if (path := sysconfig.get_path(name))}
    yield str(Path(__file__).resolve().parents[1])  # the package `proxy`, wherever it is
    yield from SYSTEM_FILES
    paths = ssl.get_default_verify_paths()
    for path in (paths.cafile, paths.capath, paths.openssl_cafile, paths.openssl_capath):
        if path is not None and os.path.exists(path):
            yield os.path.realpath(path)


def _preload() -> None:
    """Make libraries read now what they would read later: OpenSSL's configuration, the C library's time zone."""
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    time.localtime()


def _clear_bounding_set() -> None:
    """Empty the bounding set, so that no capability can be regained."""
    _libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for capability in range(LAST_CAPABILITY + 1):
        # EPERM without CAP_SETPCAP: then no_new_privs has the same effect
        _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def _drop_root() -> str | None:
    """If root, become a user that owns nothing and is in no group. Returns why that failed, or None."""
    user = _unused_user_id()
    try:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    except OSError as error:
        return f"no other user ID is available ({error.strerror})"
    return None


def _unused_user_id() -> int:
    """A user ID without an account; a different one for each process while there are enough."""
    start = os.getpid() % len(DYNAMIC_USERS)
    for offset in range(len(DYNAMIC_USERS)):
        number = DYNAMIC_USERS[(start + offset) % len(DYNAMIC_USERS)]
        try:
            pwd.getpwuid(number)
        except KeyError:
            return number
    return DYNAMIC_USERS[start]


def _drop_capabilities() -> None:
    """Drop all capabilities."""
    header, sets = _Header(CAPABILITY_VERSION_3, 0), (_Sets * 2)()
    if _libc.capset(ctypes.byref(header), ctypes.byref(sets)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
