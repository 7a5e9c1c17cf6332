"""Which labs there are, whether they are alive, and what is deleted: against real processes, without namespaces."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from oxyctl.errors import LabNotFound, NothingMatched, OxyctlError, UsageError
from oxyctl.operate import down
from oxyctl.plan.make import make_plan
from oxyctl.supervise import state
from oxyctl.topology.file import loads


@pytest.fixture
def supervisor():
    """A process that ends when asked to, in place of a supervisor."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def note(name, pid, quick="", **changes):
    """What a supervisor with this PID would have left in the run directory."""
    directory = state.lab_directory(name)
    directory.log("supervisor").parent.mkdir(parents=True)
    if quick:
        plan = make_plan(loads(quick, name), directory.path)
        (directory.path / "plan.json").write_bytes(msgspec.json.encode(plan))
        for node in plan.nodes:
            if node.control:
                Path(node.control).parent.mkdir(parents=True)
                Path(node.control).touch()
    said = {"boot_id": state.boot_id(), "start_ticks": state.start_ticks(pid) or 0, "phase": "up"} | changes
    directory.write_state(state.State(lab=name, source="lab.yaml", pid=pid, started=0, **said))
    return directory


def test_a_lab_lives_as_long_as_its_supervisor(run, supervisor):
    directory = note("one", supervisor.pid)
    assert directory.live_state().pid == supervisor.pid
    supervisor.kill()
    supervisor.wait()
    assert directory.live_state() is None


@pytest.mark.parametrize("change", [{"boot_id": "before the reboot"}, {"start_ticks": 1}])
def test_another_process_with_its_number_is_not_its_supervisor(run, supervisor, change):
    directory = note("one", supervisor.pid, **change)
    assert directory.live_state() is None
    assert down.take_down(directory)
    assert supervisor.poll() is None
    assert not directory.path.exists()


def test_a_process_that_has_ended_but_was_not_waited_for_is_gone(run, supervisor):
    directory = note("one", supervisor.pid)
    supervisor.kill()
    os.waitid(os.P_PID, supervisor.pid, os.WEXITED | os.WNOWAIT)
    assert directory.live_state() is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema": "oxyctl.lab/2"}', b"\xff"])
def test_state_that_is_no_state_of_ours_is_as_good_as_none(run, content):
    directory = state.lab_directory("one")
    directory.path.mkdir(parents=True)
    (directory.path / "state.json").write_bytes(content)
    assert directory.live_state() is None
    assert down.take_down(directory)


def test_the_only_running_lab_needs_no_name(run, supervisor):
    with pytest.raises(LabNotFound, match="no lab is running"):
        state.find_lab()
    note("dead", supervisor.pid, start_ticks=1)
    note("one", supervisor.pid)
    assert state.find_lab().name == "one"
    note("two", supervisor.pid)
    with pytest.raises(LabNotFound, match="several labs are running: one, two; choose one with --lab NAME"):
        state.find_lab()
    assert state.find_lab("two").name == "two"
    with pytest.raises(LabNotFound, match="no lab 'tow' is running; did you mean 'two'"):
        state.find_lab("tow")
    with pytest.raises(LabNotFound):
        state.find_lab("dead")


def test_the_control_socket_of_a_proxy(run, supervisor, quick):
    directory = note("one", supervisor.pid, quick)
    expected = directory.path / "nodes/edge/control.sock"
    assert state.control_socket().samefile(expected)
    assert state.control_socket("one", "edge").samefile(expected)
    with pytest.raises(NothingMatched, match="node 'web' is not a proxy"):
        state.control_socket("one", "web")
    with pytest.raises(NothingMatched, match="no node 'edgy'; did you mean 'edge'"):
        state.control_socket("one", "edgy")


def test_one_of_several_proxies_must_be_named(run, supervisor, quick):
    note("one", supervisor.pid, quick + "  core: {kind: proxy, tenants: {acme: {}}}\n")
    with pytest.raises(UsageError, match="several proxies: edge, core"):
        state.control_socket()
    assert state.control_socket(node="core").samefile(run / "labs/one/nodes/core/control.sock")


def test_down_ends_the_supervisor_and_deletes_its_files_only(run, supervisor, tmp_path):
    directory, other = note("one", supervisor.pid), note("other", supervisor.pid, start_ticks=1)
    (tmp_path / "precious").write_text("keep")
    (directory.path / "link").symlink_to(tmp_path)
    assert down.take_down(directory)
    assert supervisor.wait() == -15
    assert not directory.path.exists()
    assert other.path.exists()
    assert (tmp_path / "precious").read_text() == "keep"
    assert not down.take_down(directory)


def test_a_supervisor_that_ignores_the_request_is_killed(run, monkeypatch):
    monkeypatch.setattr(down, "GRACE_MS", 50)
    code = "import signal; signal.signal(15, signal.SIG_IGN); print(flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as stubborn:
        stubborn.stdout.readline()
        directory = note("one", stubborn.pid)
        assert down.take_down(directory)
        assert stubborn.wait() == -9


def test_the_lock_is_held_until_every_copy_is_closed(run):
    with state.locked("one") as fd:
        copy = os.dup(fd)
    with pytest.raises(BlockingIOError), state.locked("one", wait=False):
        pass
    with state.locked("two", wait=False):
        pass
    os.close(copy)
    with state.locked("one", wait=False):
        pass


def test_a_run_directory_that_others_may_write_to_is_refused(run):
    run.mkdir()
    run.chmod(0o777)
    with pytest.raises(OxyctlError, match="is writable by others"):
        state.run_directory()


def test_without_a_run_directory_of_ones_own(monkeypatch, tmp_path):
    monkeypatch.delenv("OXYCTL_RUN_DIR", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert state._run_directory() == tmp_path / "oxyctl"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert str(state._run_directory()) == "/tmp/oxyctl-54321"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert str(state._run_directory()) == "/run/oxyctl"
