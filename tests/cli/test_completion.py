"""What the shell asks `oxyctl` for while somebody types, through the protocol of the installed completion scripts."""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec
import pytest

from oxyctl.cli import main
from oxyctl.plan.make import make_plan
from oxyctl.supervise.state import LabDirectory, State, boot_id, start_ticks
from oxyctl.topology.file import loads

LAB = """
networks: {internet: {subnets: [10.50.0.0/24]}}
nodes:
  edge:   {kind: proxy, networks: [internet], tenants: {acme: {}}}
  laptop: {kind: warp, proxy: edge, tenant: acme}
  web:    {kind: upstream, networks: [internet], services: {http: 80}}
checks:
  - {kind: http, name: web answers, from: laptop, url: "http://web/"}
  - {kind: ping, name: reachable, from: laptop, to: web}
"""


@pytest.fixture
def labs(tmp_path, monkeypatch):
    """Two labs: `quick` lives (its supervisor is this process, as far as anybody can tell), `old` does not."""
    monkeypatch.setenv("OXYCTL_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "quick.yaml"
    file.write_text(LAB)
    for name, ticks in (("quick", start_ticks("self")), ("old", 1)):
        lab = LabDirectory(tmp_path / "run" / "labs" / name)
        lab.path.mkdir(parents=True, mode=0o700)
        plan = make_plan(loads(LAB, name, str(file)), lab.path)
        (lab.path / "log").mkdir()
        (lab.path / "log" / "impair.log").touch()
        (lab.path / "plan.json").write_bytes(msgspec.json.encode(plan))
        lab.write_state(
            State(
                lab=name, source=str(file), phase="up", boot_id=boot_id(), pid=os.getpid(), start_ticks=ticks, started=0
            )
        )
    (tmp_path / "run").chmod(0o700)
    return tmp_path


@pytest.fixture
def complete(monkeypatch, capsys):
    """What is offered for the last of the words that are typed. Nothing may be told beside it."""

    def ask(*words, shell="bash"):
        typed = ["oxyctl", *words]
        asked = {
            "_OXYCTL_COMPLETE": f"complete_{shell}",
            "COMP_WORDS": "\n".join(typed),
            "COMP_CWORD": str(len(typed) - 1),
            "_TYPER_COMPLETE_ARGS": " ".join(typed),
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        }
        for name, value in asked.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["oxyctl"])
        monkeypatch.setattr(sys.modules["__main__"], "__package__", None)  # else the name is that of `python -m pytest`
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        assert (end.value.code or 0, err) == (0, "")
        return [line for line in out.split("\n") if line] if shell == "bash" else out

    return ask


CASES = [
    (["lab", "down", ""], ["old", "quick"]),
    (["lab", "exec", "--lab", ""], ["quick"]),
    (["lab", "exec", ""], ["edge", "laptop", "web"]),
    (["lab", "exec", "--lab", "quick", "l"], ["laptop"]),
    (["lab", "exec", "--lab", "nobody", ""], []),
    (["lab", "restart", ""], ["edge", "laptop", "web"]),
    (["lab", "stop", "edge", "web", ""], ["laptop"]),
    (["lab", "start", "--lab", "quick", "w"], ["web"]),
    (["lab", "logs", "w"], ["web"]),
    (["lab", "logs", "--lab", "old", ""], ["edge", "laptop", "web", "impair"]),
    (["lab", "up", "q"], ["quick.yaml", "quickstart"]),
    (["lab", "up", "run/"], ["run/labs/"]),
    (["lab", "graph", "qui"], ["quick", "quick.yaml", "quickstart"]),
    (["lab", "check", ""], ["web\\ answers", "reachable"]),
    (["lab", "check", "web a"], ["web\\ answers"]),
    (["traffic", "ping", "lap"], ["laptop"]),
    (["status", "--node", ""], ["edge"]),
    (["capture", "w"], ["web", "web:eth0"]),
    (["capture", "laptop", ":", "w"], ["warp0"]),
    (["capture", "--lab", "quick", "int"], ["internet"]),
]


@pytest.mark.parametrize(("words", "offered"), CASES, ids=[" ".join(words) for words, _ in CASES])
def test_what_is_offered(labs, complete, words, offered):
    assert complete(*words) == offered


def test_other_shells_quote_for_themselves(labs, complete):
    assert "web answers" in complete("lab", "check", "", shell="zsh")
    assert "laptop:warp0" in complete("capture", "laptop:", shell="fish")


def test_nothing_and_no_word_when_there_are_no_labs(complete, tmp_path, monkeypatch):
    monkeypatch.setenv("OXYCTL_RUN_DIR", str(tmp_path))
    assert complete("lab", "exec", "") == []
    assert complete("flows", "--tenant", "") == []


def test_a_run_directory_that_cannot_be_used_is_silent(complete, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("no directory")
    monkeypatch.setenv("OXYCTL_RUN_DIR", str(file))
    assert complete("lab", "down", "") == []
    assert complete("capture", "") == []


def test_the_program_itself_answers(labs):
    environment = os.environ | {
        "_OXYCTL_COMPLETE": "complete_bash",
        "COMP_WORDS": "oxyctl\nlab\ndown\n",
        "COMP_CWORD": "3",
    }
    script = "import sys; sys.argv[0] = 'oxyctl'; from oxyctl.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert (done.stdout.split(), done.stderr) == (["old", "quick"], "")
