"""The audit log: whole lines, files of a bounded size, and a count of what is missing."""

from __future__ import annotations

import asyncio
import os
import stat

import msgspec
import pytest

from proxy.errors import ProxyError
from proxy.flow.record import FlowRecord
from proxy.settings.model import Audit
from proxy.telemetry import jsonlines
from proxy.telemetry.jsonlines import JsonLines
from tests.records import make_record


@pytest.fixture
def audit(tmp_path):
    return str(tmp_path / "audit.jsonl")


def write(records, path, *, queue_records=20_000, **settings):
    async def main():
        lines = JsonLines(Audit(path=path, **settings), queue_records=queue_records)
        for record in records:
            lines.submit(record)
        await lines.close()
        return lines.lost

    return asyncio.run(main())


def read(path):
    with open(path, "rb") as file:
        return [msgspec.json.decode(line, type=FlowRecord) for line in file]


def test_every_record_is_a_line_and_only_the_owner_reads_it(audit):
    records = [make_record(number) for number in range(2500)]
    assert write(records, audit) == 0
    assert read(audit) == records
    assert stat.S_IMODE(os.stat(audit).st_mode) == 0o600


def test_a_second_proxy_goes_on_in_the_same_file(audit):
    write([make_record(1)], audit)
    write([make_record(2)], audit)
    assert [record.flow_id for record in read(audit)] == ["f00000001", "f00000002"]


@pytest.mark.parametrize("files", [1, 3])
def test_files_are_bounded_in_size_and_number(audit, files, monkeypatch):
    monkeypatch.setattr(jsonlines, "BATCH_RECORDS", 2)
    write([make_record(number) for number in range(100)], audit, max_bytes=5000, files=files)
    names = sorted(os.listdir(os.path.dirname(audit)))
    assert names == ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2"][:files]
    assert all(os.path.getsize(os.path.join(os.path.dirname(audit), name)) <= 5000 for name in names)
    kept = [
        record.flow_id
        for name in names[:0:-1] + names[:1]
        for record in read(os.path.join(os.path.dirname(audit), name))
    ]
    assert kept == [f"f{number:08d}" for number in range(100 - len(kept), 100)]


def test_what_somebody_moved_away_is_not_written_to(audit):
    async def main():
        lines = JsonLines(Audit(path=audit))
        os.rename(audit, audit + ".theirs")
        lines.submit(make_record(1))
        await lines.close()

    asyncio.run(main())
    assert read(audit + ".theirs") == []
    assert len(read(audit)) == 1


def test_an_overflowing_queue_counts_what_it_loses(audit, monkeypatch):
    monkeypatch.setattr(JsonLines, "_write", lambda self, records: None)
    assert write([make_record(number) for number in range(5)], audit, queue_records=0) == 5


def test_a_full_disk_is_counted_said_once_and_leaves_no_cut_line(audit, monkeypatch, caplog):
    whole = os.write
    room = iter([whole, lambda fd, data: whole(fd, data[:10]), lambda fd, data: whole(fd, data[:10]), whole])
    monkeypatch.setattr(jsonlines, "BATCH_RECORDS", 1)
    monkeypatch.setattr(JsonLines, "_rotate_for", lambda self, size: None)

    def limited(fd, data):
        return next(room)(fd, data) if b"flow_id" in data else whole(fd, data)

    monkeypatch.setattr(jsonlines.os, "write", limited)
    assert write([make_record(number) for number in range(4)], audit) == 2
    assert [record.flow_id for record in read(audit)] == ["f00000000", "f00000003"]
    assert caplog.text.count("cannot be written") == 1
    assert "are written again; lost so far: 2" in caplog.text


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ProxyError, match=r"cannot open the audit log .*: No such file or directory"):
        JsonLines(Audit(path=str(tmp_path / "missing" / "audit.jsonl")))
