"""What `gc` deletes, what it leaves alone, and that nobody who waits for a lock is fooled by that."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import threading

import pytest

from oxyctl.cli.check import _lab_and_patterns
from oxyctl.errors import LabNotFound, OxyctlError
from oxyctl.operate import down, leftovers
from oxyctl.supervise import state
from tests.supervise.test_state import note, supervisor  # noqa: F401


def paths(found):
    return [os.path.relpath(item.path, state.run_directory()) for item in found if item.kept is None]


def touch_lock(name):
    with state.locked(name):
        pass


def test_what_has_no_lab_goes_and_what_has_one_stays(run, supervisor):  # noqa: F811
    alive, dead = note("alive", supervisor.pid), note("dead", supervisor.pid, start_ticks=1)
    rebooted = note("rebooted", supervisor.pid, boot_id="before the reboot")
    for name in ("alive", "dead", "forgotten"):
        touch_lock(name)
    expected = ["labs/dead", "locks/dead", "locks/forgotten", "labs/rebooted"]
    assert paths(leftovers.collect(dry_run=True)) == expected
    assert dead.path.exists()
    assert rebooted.path.exists()
    assert sorted(os.listdir(run / "locks")) == ["alive", "dead", "forgotten"]
    assert paths(leftovers.collect(dry_run=False)) == expected
    assert sorted(os.listdir(run / "labs")) == ["alive"]
    assert sorted(os.listdir(run / "locks")) == ["alive"]
    assert alive.live_state() is not None
    assert supervisor.poll() is None
    assert leftovers.collect(dry_run=False) == []


def test_a_lab_that_is_being_built_is_passed_over(run, supervisor):  # noqa: F811
    building = note("building", supervisor.pid, start_ticks=1)
    with state.locked("building"):
        assert leftovers.collect(dry_run=False) == []
    assert building.path.exists()
    assert paths(leftovers.collect(dry_run=False)) == ["labs/building", "locks/building"]


def make_link(path, outside):
    path.symlink_to(outside)


def make_file(path, outside):
    path.write_text("mine")


def make_strange(path, outside):
    path.mkdir()
    (path / "thesis.tex").write_text("mine")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (make_link, "it is a symbolic link"),
        (make_file, "it is not a directory"),
        (make_strange, "it does not look like a lab directory: thesis.tex"),
    ],
)
def test_what_is_not_provably_ours_is_left_alone(run, tmp_path, make, reason):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "plan.json").write_text("{}")
    (run / "labs").mkdir(parents=True)
    run.chmod(0o700)
    directory = state.lab_directory("foreign")
    make(directory.path, outside)
    assert [item.kept for item in leftovers.collect(dry_run=False)] == [reason]
    with pytest.raises(OxyctlError, match="is not deleted: " + reason):
        down.take_down(directory)
    assert os.path.lexists(directory.path)
    assert (outside / "plan.json").exists()
    assert not directory.path.is_dir() or os.listdir(directory.path)


def test_the_directory_of_another_user_is_left_alone(run, supervisor, monkeypatch):  # noqa: F811
    directory = note("theirs", supervisor.pid, start_ticks=1)
    monkeypatch.setattr(os, "geteuid", lambda: directory.path.stat().st_uid + 1)
    assert leftovers.reason_to_keep(directory) == "it belongs to another user"


def test_what_is_mounted_below_is_not_deleted(run, supervisor, monkeypatch, tmp_path):  # noqa: F811
    directory = note("one", supervisor.pid, start_ticks=1)
    (directory.path / "my data").mkdir()
    mounts = tmp_path / "mountinfo"
    point = str(directory.path / "my data").replace(" ", "\\040")
    mounts.write_text(f"36 35 98:0 / {point} rw - ext4 /dev/sda rw\n")
    monkeypatch.setattr(leftovers, "MOUNTS", mounts)
    assert leftovers.reason_to_keep(directory) == f"something is mounted at {directory.path / 'my data'}"


def test_files_that_are_no_locks_are_left_alone(run, tmp_path):
    touch_lock("real")
    (run / "locks" / "notes").write_text("mine")
    (run / "locks" / "link").symlink_to(tmp_path / "elsewhere")
    assert paths(leftovers.collect(dry_run=False)) == ["locks/real"]
    assert (run / "locks" / "notes").read_text() == "mine"
    assert (run / "locks" / "link").is_symlink()
    assert not (tmp_path / "elsewhere").exists()


def test_who_waits_for_a_lock_that_is_deleted_gets_the_next_one(run):
    """Otherwise two commands would hold the lock of one lab: one of the deleted file, one of the new."""
    waiting, results = threading.Event(), []

    def wait():
        fd = os.open(run / "locks" / "one", os.O_RDWR)
        os.close(fd)
        waiting.set()
        with state.locked("one") as fd:
            results.append(os.fstat(fd).st_ino == os.stat(run / "locks" / "one").st_ino)
            with pytest.raises(BlockingIOError), state.locked("one", wait=False):
                pass

    with state.locked("one"):
        thread = threading.Thread(target=wait)
        thread.start()
        waiting.wait(20)
        (run / "locks" / "one").unlink()
    thread.join(20)
    assert results == [True]


def test_a_lock_that_vanished_between_open_and_flock_is_not_believed(run, monkeypatch):
    touch_lock("one")
    lock, flock = run / "locks" / "one", fcntl.flock
    taken = []

    def late(fd, operation):
        taken.append(fd)
        if len(taken) == 1:
            lock.unlink()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with state.locked("one") as fd:
        assert os.path.samestat(os.fstat(fd), lock.stat())
    assert len(taken) == 2


def test_the_lab_of_the_environment_is_meant_when_none_is_named(run, supervisor, monkeypatch):  # noqa: F811
    note("one", supervisor.pid)
    note("two", supervisor.pid)
    monkeypatch.setenv("OXYCTL_LAB", "two")
    assert state.find_lab().name == "two"
    assert state.find_lab("one").name == "one"
    monkeypatch.setenv("OXYCTL_LAB", "three")
    with pytest.raises(LabNotFound, match="no lab 'three' is running"):
        state.find_lab()


def test_the_first_word_of_check_is_a_lab_where_it_must_be(run, supervisor, monkeypatch):  # noqa: F811
    note("one", supervisor.pid)
    assert [_chosen(words, None) for words in (["http*"], ["one", "http*"])] == [("one", ["http*"])] * 2
    note("two", supervisor.pid)
    assert _chosen(["two", "http*"], None) == ("two", ["http*"])
    assert _chosen(["http*"], "two") == ("two", ["http*"])
    with pytest.raises(LabNotFound, match="no lab 'http' is running"):
        _chosen(["http"], None)
    monkeypatch.setenv("OXYCTL_LAB", "two")
    assert _chosen(["http*", "dns"], None) == ("two", ["http*", "dns"])
    assert _chosen(["one", "dns"], None) == ("one", ["dns"])


def _chosen(words, lab):
    directory, patterns = _lab_and_patterns(words, lab)
    return directory.name, patterns


def test_logs_are_found_of_a_lab_that_is_no_more(run, supervisor):  # noqa: F811
    dead = note("dead", supervisor.pid, start_ticks=1)
    assert state.find_stopped().path == dead.path
    other = note("other", supervisor.pid, start_ticks=1)
    with pytest.raises(LabNotFound):
        state.find_stopped()
    assert state.find_stopped("other").path == other.path
    with pytest.raises(LabNotFound):
        state.find_stopped("never")


def test_a_pid_that_another_process_took_over_is_not_signalled(run):
    with subprocess.Popen(["sleep", "600"]) as foreign:
        try:
            directory = note("one", foreign.pid, start_ticks=(state.start_ticks(foreign.pid) or 1) - 1)
            assert down.take_down(directory)
            assert foreign.poll() is None
        finally:
            foreign.kill()


def test_what_was_deleted_in_part_can_still_be_told_to_be_ours(run, supervisor, monkeypatch):  # noqa: F811
    """However far a command came that was killed while it deleted."""
    whole = leftovers._delete_entry
    for steps in range(4):
        directory = note("one", supervisor.pid, start_ticks=1)
        (directory.path / "hosts").touch()
        done = []

        def killed(path, limit=steps, done=done):
            if len(done) == limit:
                raise KeyboardInterrupt
            done.append(path)
            whole(path)

        monkeypatch.setattr(leftovers, "_delete_entry", killed)
        with pytest.raises(KeyboardInterrupt) if steps < 3 else contextlib.nullcontext():
            leftovers.delete(directory)
        monkeypatch.setattr(leftovers, "_delete_entry", whole)
        assert leftovers.delete(directory) == (steps < 3)
        assert not directory.path.exists()
