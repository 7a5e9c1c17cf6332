"""Where a command's output goes: to a full disk, or nowhere; and what Ctrl-C leaves on the screen."""

from __future__ import annotations

import signal
import subprocess
import sys

PROGRAM = [sys.executable, "-m", "oxyctl"]
SLOW = """
import sys, time
class Finder:
    def find_spec(self, name, *_):
        if name == "typer":
            print("importing", flush=True)
            time.sleep(60)
sys.meta_path.insert(0, Finder())
from oxyctl.__main__ import main
main()
"""


def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run([*PROGRAM, "lab", "schema"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: cannot write: no space left on device\n")


def test_a_closed_output_is_no_failure():
    closed = ["sh", "-c", 'exec "$@" >&-', "sh", *PROGRAM, "lab", "graph", "quickstart"]
    done = subprocess.run(closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_interrupt_while_modules_are_imported_leaves_no_traceback():
    command = [sys.executable, "-c", SLOW]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout.readline() == "importing\n"
        program.send_signal(signal.SIGINT)
        assert (program.communicate(timeout=30)[1], program.returncode) == ("", -signal.SIGINT)
