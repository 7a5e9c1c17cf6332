"""The command line in this process, and a proxy that it can ask."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from oxyctl.cli import main
from tests.control.conftest import loop, path, proxy, server, start

__all__ = ["loop", "path", "proxy", "server", "start"]


class Result(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Oxyctl = Callable[..., Result]


@pytest.fixture
def oxyctl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path) -> Oxyctl:
    """Run `oxyctl ARGUMENTS`; there is no lab here."""
    monkeypatch.setenv("OXYCTL_RUN_DIR", str(tmp_path / "run"))

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["oxyctl", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        return Result(exit_.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture
def flows(oxyctl: Oxyctl, server, path: str) -> Oxyctl:
    """Run `oxyctl flows ARGUMENTS` against the made-up proxy."""
    return lambda *arguments: oxyctl("flows", "--control", path, *arguments)
