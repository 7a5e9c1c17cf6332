"""Limits of this user and this machine, and the interpreter."""

from __future__ import annotations

import fcntl
import os
import platform
import resource
import sys
from pathlib import Path

from oxyctl.doctor.finding import Outcome, Trial

OLDEST_PYTHON = (3, 11)
DESCRIPTORS = 65_536  # a relayed connection needs two, a tunnel one; 10,000 flows, and pipes
PIPE_BYTES = 1 << 20  # requested by a relay
SEND_BUFFER_BYTES = 4 << 20  # requested by a tunnel: dozens of super-packets


def trials() -> list[Trial]:
    """Trials of limits. Only the interpreter and the run directory are required."""
    return [
        Trial("Python", "everything", _python, required=True),
        Trial("run directory", "the state of labs", _run_directory, required=True),
        Trial("open files", "thousands of connections", _descriptors),
        Trial("pipe size", "bulk transfers by splice", _pipes),
        Trial("socket buffers", "tunnels without root: 64 KB packets in flight", _send_buffers),
    ]


def _python() -> Outcome:
    version = platform.python_version()
    if sys.version_info < OLDEST_PYTHON:
        return Outcome("missing", version, "sudo apt install python3.11")
    return Outcome("ok", version)


def _run_directory() -> Outcome:
    from oxyctl.errors import OxyctlError
    from oxyctl.supervise.state import run_directory

    try:
        path = run_directory()
    except OxyctlError as error:
        return Outcome("missing", str(error), 'export OXYCTL_RUN_DIR="$HOME/.local/state/oxyctl"')
    if not os.access(path, os.W_OK):
        return Outcome("missing", f"{path} cannot be written", 'export OXYCTL_RUN_DIR="$HOME/.local/state/oxyctl"')
    return Outcome("ok", str(path))


def _descriptors() -> Outcome:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        fix = f"echo '* hard nofile {DESCRIPTORS}' | sudo tee /etc/security/limits.d/oxyctl.conf; then log in again"
        return Outcome("degraded", f"{hard} at most", fix)
    return Outcome("ok", f"{soft}, raised to {hard} where needed")


def _pipes() -> Outcome:
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except OSError as error:
        size = fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)
        fix = f"sudo sysctl -w fs.pipe-max-size={PIPE_BYTES} fs.pipe-user-pages-soft=0"
        return Outcome("degraded", f"{size} bytes ({error.strerror})", fix)
    finally:
        os.close(reader)
        os.close(writer)
    return Outcome("ok", f"{PIPE_BYTES} bytes")


def _send_buffers() -> Outcome:
    if os.geteuid() == 0:
        return Outcome("ok", "root may exceed net.core.wmem_max")
    size = int(Path("/proc/sys/net/core/wmem_max").read_text())
    if size < SEND_BUFFER_BYTES:
        fix = f"sudo sysctl -w net.core.wmem_max={SEND_BUFFER_BYTES} net.core.rmem_max={SEND_BUFFER_BYTES}"
        return Outcome("degraded", f"{size} bytes", fix)
    return Outcome("ok", f"{size} bytes")
