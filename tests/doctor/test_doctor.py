"""`oxyctl doctor`: it finds out by trying, and leaves nothing behind."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path

import pytest

from oxyctl.doctor import features, limits, offramp, programs
from oxyctl.doctor.diagnose import diagnose
from oxyctl.doctor.finding import Finding, NoNamespaces, Outcome, Trial, can_run_labs
from oxyctl.doctor.modules import has_module
from oxyctl.doctor.sandbox import in_child, in_sandbox

# from Python 3.12 on, forking beside the threads of pytest-xdist warns; the children here touch no lock of theirs
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def test_a_trial_answers_from_a_child():
    me = os.getpid()
    assert in_child(lambda: Outcome("degraded", f"not {os.getpid() == me}", "mend it")) == (
        "degraded",
        "not False",
        "mend it",
    )


def test_an_error_in_the_child_is_one_here():
    def fails():
        raise OSError(errno.EACCES, "no", "/dev/some")

    with pytest.raises(PermissionError, match="/dev/some: no"):
        in_child(fails)


@pytest.mark.parametrize("end", [lambda: os._exit(3), lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: 1 / 0])
def test_a_child_that_ends_in_another_way_is_an_error(end):
    with pytest.raises(OSError, match=r"ended by the kernel|ZeroDivisionError"):
        in_child(end)


def test_a_trial_that_fails_is_a_finding():
    def fails():
        raise OSError(errno.EPERM, "Operation not permitted")

    lacking = Trial("x", "y", fails, fix="try z").run()
    assert (lacking.state, lacking.detail, lacking.fix) == ("degraded", "Operation not permitted", "try z")
    assert Trial("x", "y", fails, required=True).run().state == "missing"
    assert Trial("x", "y", lambda: Outcome("ok"), fix="try z").run().fix is None


def test_what_cannot_be_tried_is_said():
    def fails():
        raise NoNamespaces(errno.EPERM, "no")

    assert Trial("x", "y", fails, required=True).run().detail == "not tried: no namespaces"


def test_only_what_is_required_keeps_labs_from_running():
    lacking = Finding(name="x", state="missing", needed_for="y")
    assert can_run_labs([lacking])
    assert not can_run_labs([lacking, Finding(name="z", state="missing", needed_for="y", required=True)])


@pytest.mark.netns
def test_what_is_made_in_a_sandbox_is_not_here():
    before = sorted(os.listdir("/sys/class/net")), Path("/proc/self/mountinfo").read_text()

    def look():
        features._tun_offload()
        return Outcome("ok", f"{os.getpid()}")

    assert in_sandbox(look).detail == "1"
    assert (sorted(os.listdir("/sys/class/net")), Path("/proc/self/mountinfo").read_text()) == before


@pytest.mark.netns
def test_every_trial_ends_in_an_answer_of_its_own():
    found = [trial.run() for trial in (*limits.trials(), *features.trials(), *offramp.trials(), *programs.trials())]
    assert len({finding.name for finding in found}) == len(found)
    for finding in found:
        assert "the trial" not in finding.detail, finding
        assert finding.needed_for
        assert finding.state != "missing" or finding.fix
    assert can_run_labs(found), "the other tests of labs say that it can"


@pytest.mark.netns
def test_for_programs_and_for_people(oxyctl):
    envelope = json.loads(oxyctl("doctor", "--format", "json").out)
    assert (envelope["kind"], envelope["can_run_labs"]) == ("doctor", True)
    assert {"name", "state", "needed_for", "fix", "required", "detail"} == set(envelope["items"][0])
    shown = oxyctl("doctor")
    assert shown.code == 0
    assert shown.lines[-1].startswith("labs can run here")
    for item in envelope["items"]:
        assert item["fix"] is None or item["fix"] in shown.out


def test_exit_code_1_when_labs_cannot_run(oxyctl, monkeypatch):
    gone = Trial("the moon", "tides", lambda: Outcome("missing", "not there", "build one"), required=True)
    monkeypatch.setattr(features, "trials", lambda: [gone])
    done = oxyctl("doctor")
    assert done.code == 1
    assert "build one" in done.out
    assert done.lines[-1] == "labs cannot run here: the moon"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("the kernel refuses a user namespace: Operation not permitted", "namespaces"),
        ("node 'laptop': [Errno 13] Permission denied: '/dev/net/tun'", "/dev/net/tun"),
        ("[Errno 24] Too many open files", "open files"),
        ("cannot use the run directory /x: Read-only file system", "run directory"),
    ],
)
def test_an_error_leads_to_what_would_mend_it(monkeypatch, text, name):
    lacking = Trial(name, "labs", lambda: Outcome("missing", "because", "sudo mend"))
    fine = [Trial(other, "labs", lambda: Outcome("ok")) for other in ("AppArmor", "bridge", "veth")]
    monkeypatch.setattr("oxyctl.doctor.diagnose._trials", lambda: [lacking, *fine])
    hint = diagnose(OSError(text))
    assert hint == f"hint: {name}: cannot be used (because); try: sudo mend; `oxyctl doctor` shows details"


def test_no_hint_where_nothing_is_lacking(monkeypatch):
    monkeypatch.setattr("oxyctl.doctor.diagnose._trials", lambda: [Trial("namespaces", "labs", lambda: Outcome("ok"))])
    assert diagnose("the kernel refuses a user namespace") is None
    assert diagnose("node 'web': program ended") is None


def test_modules_are_found_whatever_their_dashes(tmp_path):
    (tmp_path / "6.1").mkdir()
    (tmp_path / "6.1" / "modules.dep").write_text("kernel/net/ipv4/ip_gre.ko.xz: kernel/net/gre.ko\n")
    (tmp_path / "6.1" / "modules.builtin").write_text("kernel/net/sched/sch-tbf.ko\n")
    assert has_module("ip_gre", "6.1", tmp_path)
    assert has_module("sch_tbf", "6.1", tmp_path)
    assert not has_module("fou", "6.1", tmp_path)
    assert not has_module("ip_gre", "6.2", tmp_path)
