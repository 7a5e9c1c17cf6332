"""An inspector's process: how it is started, how much memory it takes, how it ended."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

# The environment variables that inspectors get: locations of programs, modules and roots; and Python's own settings.
PASSED_VARIABLES = ("HOME", "LANG", "LD_LIBRARY_PATH", "OPENSSL_CONF", "PATH", "SSL_CERT_DIR", "SSL_CERT_FILE", "TZ",
          "VIRTUAL_ENV")  # fmt: skip
PASSED_PREFIXES = ("PYTHON", "LC_")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
EXIT_TIMEOUT_S = 2.0  # for a process that is to end


def start(channel: socket.socket, *, reads_ssh: bool, logs_keys: bool) -> subprocess.Popen[bytes]:
    """Start an inspector's process, which serves at this end of a channel."""
    arguments = [sys.executable, "-m", "proxy.inspect", str(channel.fileno())]
    arguments += [option for option, is_on in (("ssh", reads_ssh), ("keys", logs_keys)) if is_on]
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in PASSED_VARIABLES or name.startswith(PASSED_PREFIXES)  # anything else might be a secret
    }
    return subprocess.Popen(arguments, pass_fds=[channel.fileno()], stdin=subprocess.DEVNULL, env=environment)


def memory_bytes(pid: int) -> int:
    """Resident memory in bytes, shared pages included; 0 if the process has just ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    except (OSError, IndexError):
        return 0


def reap(process: subprocess.Popen[bytes]) -> str:
    """Wait for the process to end. Returns how it ended: a signal or an exit code."""
    try:
        code = process.wait(EXIT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    return f"signal {-code}" if code < 0 else f"exit code {code}"
