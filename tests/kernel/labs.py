"""A lab in the machine of the kernel tests: driven without commands, as each interpreter takes its seconds there."""

from __future__ import annotations

import contextlib
import os
import subprocess

import msgspec

from oxyctl.net.impairment import ImpairmentSettings
from oxyctl.operate.ask import ask_impair, ask_status
from oxyctl.operate.down import take_down
from oxyctl.operate.run_inside import command_in
from oxyctl.operate.up import up
from oxyctl.supervise.requests import Impair
from oxyctl.supervise.state import lab_directory
from tests.labs.conftest import links

TIMEOUT_S = 240


class KernelLab:
    """A lab that is up."""

    def __init__(self, name):
        self.directory = lab_directory(name)

    def status(self):
        """What `lab status` tells, as plain data."""
        return msgspec.to_builtins(ask_status(self.directory))

    def impair(self, link, *, clear=False, **said):
        """What was changed."""
        return ask_impair(self.directory, Impair(link=link, settings=ImpairmentSettings(**said), clear=clear))

    def exec(self, node, script):
        """What a script printed in `node`."""
        command = command_in(self.directory, node, ["sh", "-c", script])
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout


@contextlib.contextmanager
def running(lab, directory, timeout_s=TIMEOUT_S):
    """`lab` is up until the end, and nothing of it is left then."""
    before, outside = links(), os.environ.get("OXYCTL_RUN_DIR")
    os.environ["OXYCTL_RUN_DIR"] = str(directory)
    try:
        up(lab, timeout_s, lambda event: None)
        yield KernelLab(lab.name)
        take_down(lab_directory(lab.name))
        assert links() == before
    finally:
        os.environ.pop("OXYCTL_RUN_DIR") if outside is None else os.environ.update(OXYCTL_RUN_DIR=outside)
