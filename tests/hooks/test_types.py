"""The extension that an application keeps is typed: mypy knows it in every hook, and rejects another."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.meta.imports import ROOT

APPLICATION = """
from dataclasses import dataclass
from proxy.hooks import FlowContext, Hooks, HttpRequest, TunnelContext

@dataclass
class Account:
    name: str

class Mine(Hooks[Account]):
    async def tunnel_open(self, context: TunnelContext[Account]) -> str | None:
        context.extension = Account("bob")
        return None

    async def flow_end(self, flow: FlowContext[Account]) -> None:
        {flow_end}

    async def http_request(self, request: HttpRequest[Account]) -> str | None:
        account = request.flow.extension
        return None if account is None else account.name

class Untyped(Hooks):
    async def flow_start(self, flow: FlowContext) -> str | None:
        return None
"""
GOOD = "print(flow.extension.name if flow.extension else flow.close_reason)"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (GOOD, "Success"),
        ("print(flow.extension.name)", 'Item "None" of "Account | None" has no attribute "name"'),
        ("assert flow.extension; print(flow.extension.nam)", '"Account" has no attribute "nam"'),
        ("flow.extension = 3", 'Incompatible types in assignment (expression has type "int", variable has type'),
    ],
)
def test_mypy_knows_the_extension(tmp_path, line, complaint):
    (tmp_path / "mine.py").write_text(APPLICATION.format(flow_end=line))
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        f"--cache-dir={ROOT / '.mypy_cache'}",
        "mine.py",
    ]
    environment = {"MYPYPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert complaint in done.stdout, done.stdout + done.stderr
    assert ("error" in done.stdout) is (line is not GOOD)
