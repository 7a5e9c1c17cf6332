"""Where a command's output goes: to a full disk, or nowhere."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = [sys.executable, "-c", "import sys; sys.argv[0] = 'oxyctl'; from oxyctl.cli import main; main()"]


def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run([*PROGRAM, "lab", "schema"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: cannot write: no space left on device\n")


def test_a_closed_output_is_no_failure():
    closed = ["sh", "-c", 'exec "$@" >&-', "sh", *PROGRAM, "lab", "schema"]
    done = subprocess.run(closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
