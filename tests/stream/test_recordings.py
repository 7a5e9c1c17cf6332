"""How long recordings are kept, and that nothing is deleted that is being written."""

from __future__ import annotations

import os
import stat

import pytest

from proxy.stream.recordings import PRUNE_S, Recordings, Retention, prune
from tests.inspect.ssh.world import wait_until

NOW = 1_000_000_000.0
DAY_S = 86_400


def recording(directory, name, size, age_days):
    path = directory / name
    path.write_bytes(bytes(size))
    os.utime(path, (NOW, NOW - age_days * DAY_S))


@pytest.mark.parametrize(
    ("retention", "left"),
    [
        (Retention(), {"old", "middle", "new"}),
        (Retention(days=5), {"middle", "new"}),
        (Retention(bytes=250), {"middle", "new"}),
        (Retention(bytes=99), set()),
        (Retention(bytes=100, days=5), {"new"}),
    ],
)
def test_what_is_kept(tmp_path, retention, left):
    for name, age in ("old", 9), ("middle", 4), ("new", 1):
        recording(tmp_path, name, 100, age)
    prune(tmp_path, retention, NOW)
    assert {path.name for path in tmp_path.iterdir()} == left


def test_what_is_being_recorded_is_not_deleted_and_the_next_oldest_is(tmp_path):
    recordings = Recordings(tmp_path)
    descriptor = recordings.create("acme", "open.cast", Retention())
    os.write(descriptor, bytes(100))
    os.utime(tmp_path / "acme" / "open.cast", (NOW, NOW - 50 * DAY_S))
    copy = os.dup(descriptor)  # as an inspector has it
    os.close(descriptor)
    recording(tmp_path / "acme", "ended.cast", 100, 1)
    prune(tmp_path / "acme", Retention(bytes=150), NOW)
    assert [path.name for path in (tmp_path / "acme").iterdir()] == ["open.cast"]
    os.close(copy)
    prune(tmp_path / "acme", Retention(days=10), NOW)
    assert list((tmp_path / "acme").iterdir()) == []


def test_a_new_recording_has_what_is_too_much_deleted_but_not_each_time(tmp_path):
    times = [0.0]
    recordings = Recordings(tmp_path, clock=lambda: times[0])
    directory = tmp_path / "acme"
    os.close(recordings.create("acme", "../first.cast", Retention(days=1)))
    assert stat.S_IMODE((directory / ".._first.cast").stat().st_mode) == 0o600
    recording(directory, "old.cast", 1, 50_000)
    os.close(recordings.create("acme", "second.cast", Retention(days=1)))
    assert (directory / "old.cast").exists()
    times[0] = PRUNE_S
    os.close(recordings.create("acme", "third.cast", Retention(days=1)))
    wait_until(lambda: not (directory / "old.cast").exists(), "the old recording to be deleted")
    with pytest.raises(FileExistsError):
        recordings.create("acme", "third.cast", Retention())
