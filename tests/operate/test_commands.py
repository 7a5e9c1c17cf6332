"""`oxyctl lab` as it is typed: exit codes, messages and the envelope, where no lab has to be built."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.fixture
def oxyctl(run):
    """Run the command; its exit code, standard output and standard error."""

    def call(*arguments, **options):
        done = subprocess.run([sys.executable, "-m", "oxyctl", *arguments], capture_output=True, text=True, **options)
        return done.returncode, done.stdout, done.stderr

    return call


def test_help_names_the_commands(oxyctl):
    code, out, _ = oxyctl("--help")
    assert (code, "lab" in out, "flows" in out) == (0, True, True)
    code, out, _ = oxyctl("lab", "--help")
    assert all(command in out for command in ("up", "down", "ls", "status", "exec", "logs", "validate"))


def test_help_imports_nothing_that_it_does_not_need(run):
    code = "import sys, oxyctl.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "typer" in loaded
    assert not {"rich", "yaml", "msgspec", "asyncio", "asyncssh", "cryptography", "pyroute2"} & set(loaded)


def test_validate(oxyctl, quick, tmp_path):
    (tmp_path / "good.yaml").write_text(quick)
    (tmp_path / "bad.yaml").write_text(quick.replace("kind: warp", "kind: wrap"))
    assert oxyctl("lab", "validate", "good.yaml", cwd=tmp_path) == (
        0,
        "good.yaml: valid: lab 'good', 4 nodes, 1 network\n",
        "",
    )
    code, out, error = oxyctl("lab", "validate", "bad.yaml", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert error == "error: bad.yaml:6:18: nodes.laptop.kind: unknown value 'wrap'; did you mean 'warp'?\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["down", "nosuch"], 5, "error: no lab 'nosuch'\n"),
        (["down", "../nosuch"], 5, "error: no lab '../nosuch' is running\n"),
        (["down"], 5, "error: no lab is running; `oxyctl lab up quickstart` starts one\n"),
        (["status", "nosuch"], 5, "error: no lab 'nosuch' is running\n"),
        (["exec", "--lab", "nosuch", "web", "--", "true"], 5, "error: no lab 'nosuch' is running\n"),
        (["logs"], 5, "error: no lab is running; `oxyctl lab up quickstart` starts one\n"),
        (["up", "none.yaml"], 2, "error: none.yaml: no such file or directory\n"),
        (
            ["up", "quikstart"],
            2,
            "error: no file and no bundled lab has the name 'quikstart'; did you mean 'quickstart'?\n",
        ),
    ],
)
def test_what_is_not_there(oxyctl, tmp_path, arguments, code, message):
    assert oxyctl("lab", *arguments, cwd=tmp_path) == (code, "", message)


def test_usage(oxyctl):
    assert oxyctl("lab", "status", "--format", "xml")[0] == 2
    assert oxyctl("lab", "exec", "web")[0] == 2


def test_no_labs_is_an_empty_list(oxyctl):
    code, out, _ = oxyctl("lab", "ls", "--format", "json")
    assert (code, json.loads(out)) == (0, {"schema": "oxyctl/1", "kind": "labs", "items": []})
    code, out, err = oxyctl("lab", "ls")
    assert (code, out) == (0, "NAME  STATE  NODES  FILE\n")
    assert err == "no lab is running; `oxyctl lab up quickstart` starts one\n"
