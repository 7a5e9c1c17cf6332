"""A child process in new namespaces, as a lab's supervisor is. Whatever a trial creates there ends with it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from oxyctl.build.isolation import PRIVATE
from oxyctl.doctor.finding import NoNamespaces, Outcome
from oxyctl.net.syscalls import MS_PRIVATE, MS_REC, die_with_parent, mount
from proxy.device.namespaces import CLONE_NEWUSER, unshare

TIME_LIMIT_S = 10
PR_SET_DUMPABLE = 4
Report = dict[str, Any]


def in_child(trial: Callable[[], Outcome]) -> Outcome:
    """The result of `trial` in a child process. An OSError there is raised here."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _report(writer, trial)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as pipe:
            raw = pipe.read()
    finally:
        os.waitpid(pid, 0)
    if not raw:
        raise OSError(errno.ETIMEDOUT, "the trial was ended by the kernel or took too long")
    report: Report = msgspec.json.decode(raw)
    if "errno" in report:
        kind = NoNamespaces if report["namespaces"] else OSError
        raise kind(report["errno"], report["text"])
    return Outcome(report["state"], report["detail"], report["fix"])


def in_sandbox(trial: Callable[[], Outcome]) -> Outcome:
    """The result of `trial` as PID 1 of new namespaces. NoNamespaces: they cannot be created; OSError."""
    return in_child(lambda: _in_namespaces(trial))


def _in_namespaces(trial: Callable[[], Outcome]) -> Outcome:
    enter_new()
    return in_child(lambda: _with_private_mounts(trial))  # a new PID namespace begins with the next child


def _with_private_mounts(trial: Callable[[], Outcome]) -> Outcome:
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    return trial()


def enter_new() -> None:
    """Move into new namespaces as a lab has them, inside a user namespace if the caller's privileges require one."""
    uid, gid = os.geteuid(), os.getegid()
    try:
        try:
            unshare(PRIVATE)
        except PermissionError:
            unshare(CLONE_NEWUSER | PRIVATE)
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
            Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    except OSError as error:
        raise NoNamespaces(error.errno, error.strerror) from None


def make_dumpable() -> None:
    """Make a process that has changed its user the owner of its /proc files again (prctl(2))."""
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)


def _report(writer: int, trial: Callable[[], Outcome]) -> NoReturn:
    """Run the trial in the child: write one JSON object and exit."""
    with contextlib.suppress(BaseException):
        die_with_parent(signal.SIGKILL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(TIME_LIMIT_S)
        try:
            report: Report = trial()._asdict()
        except OSError as error:
            text = error.strerror or str(error)
            named = f"{error.filename}: {text}" if error.filename else text
            report = {"errno": error.errno or 0, "text": named, "namespaces": isinstance(error, NoNamespaces)}
        except Exception as error:  # a bug in one trial is reported and does not end the others
            report = {"errno": 0, "text": f"the trial failed: {error!r}", "namespaces": False}
        os.write(writer, msgspec.json.encode(report))
    os._exit(0)
