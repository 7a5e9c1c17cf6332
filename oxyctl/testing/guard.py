"""A process that outlives pytest, to take its labs down if pytest was killed.

It reads `+NAME` and `-NAME` from its standard input, whose end means that pytest has ended, for whatever reason.
"""

from __future__ import annotations

import subprocess
import sys


class Guard:
    """The guard of this process, as pytest uses it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "oxyctl.testing.guard"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C and other signals to pytest's process group must not reach it
        )

    def watch(self, lab: str) -> None:
        """Take `lab` down at the end, if it still exists."""
        self._send(f"+{lab}")

    def forget(self, lab: str) -> None:
        """Stop watching `lab`."""
        self._send(f"-{lab}")

    def close(self) -> None:
        """Let the guard end: it takes down the labs that are still watched."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()


def main() -> None:
    """Read until standard input ends; then take down what is left."""
    watched: set[str] = set()
    for line in sys.stdin:
        change, name = line[0], line[1:].rstrip("\n")
        if change == "+":
            watched.add(name)
        else:
            watched.discard(name)
    if not watched:
        return
    from oxyctl.operate.down import take_down
    from oxyctl.supervise.state import lab_directory

    for name in watched:
        take_down(lab_directory(name))


if __name__ == "__main__":
    main()
