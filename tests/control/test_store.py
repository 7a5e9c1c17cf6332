"""The flow log of a proxy that is gone, and of one that was killed in the middle: whole, and left as it was."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys

import pytest

from proxy.control import store as store_module
from proxy.control.client import ControlError
from proxy.control.store import RecordedFlows
from proxy.settings import Records
from proxy.telemetry import flowdb
from proxy.telemetry.flowlog import FlowLog
from tests.children import make_request
from tests.meta.imports import ROOT
from tests.records import make_record

ACME = [("tenant", "acme")]
WRITER = """
import asyncio, sys
from proxy.settings import Records
from proxy.telemetry.flowlog import FlowLog
from tests.records import make_record

async def main():
    log = FlowLog(Records(path=sys.argv[1], max_age_s=1e10))
    for number in range(300):
        log.submit(make_record(number, tenant="acme" if number % 3 else "globex"))
    await log.flush()
    print("written", flush=True)
    if sys.argv[2] == "close":
        return await log.close()
    for line in sys.stdin:  # a flow each
        log.submit(make_record(int(line)))
        await log.flush()
        print("written", log.status().stored, log.status().lost, flush=True)

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "flows.db"


def write(path, end):
    """A process that writes 200 flows of acme and 100 of globex, and then closes the log, or waits."""
    command = [sys.executable, "-c", WRITER, path, end]
    writer = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "written\n"
    return writer


def contents(path):
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in path.parent.iterdir()}


@pytest.fixture(params=["closed", "killed"])
def left(request, path):
    """What a proxy left that ended as it should, or did not."""
    with write(path, "close" if request.param == "closed" else "wait") as writer:
        if request.param == "killed":
            writer.send_signal(signal.SIGKILL)
    names = {"flows.db", "flows.db-shm", "flows.db-wal"} if request.param == "killed" else {"flows.db"}
    assert set(os.listdir(path.parent)) == names
    return path


def test_every_record_is_read_and_no_byte_changes(left):
    before = contents(left)
    store = RecordedFlows(left)
    answer = store.flows([*ACME, ("limit", "1000")])
    assert (len(answer.items), answer.truncated, answer.lost) == (200, False, 0)
    assert answer.items[0].flow_id == "f00000299"
    assert store.flows([("all_tenants", "true"), ("dst_port", "81")]).items == []
    assert len(store.flows([("all_tenants", "true"), ("limit", "7")]).items) == 7
    assert store.flow("f00000001", ACME) == make_record(1)
    assert store.tenants() == ["acme", "globex"]
    assert contents(left) == before


def test_all_of_it_is_exported_page_by_page_and_counted_together(left, monkeypatch):
    monkeypatch.setattr(store_module, "PAGE", 7)
    before = contents(left)
    store = RecordedFlows(left)
    with store.export([("all_tenants", "true")]) as lines:
        *records, end = lines
    assert (len({record.flow_id for record in records}), end.exported, end.lost) == (300, 300, 0)
    groups = store.groups([("all_tenants", "true"), ("by", "tenant"), ("sort", "flows")]).items
    assert [(group.by["tenant"], group.sums.flows) for group in groups] == [("acme", 200), ("globex", 100)]
    assert contents(left) == before


@pytest.mark.parametrize(
    ("ask", "status", "message"),
    [
        (lambda store: store.flow("f00000000", ACME), 404, "tenant acme has no flow f00000000 on record"),
        (lambda store: store.flow("f0", [("all_tenants", "true")]), 404, "no tenant has a flow f0 on record"),
        (lambda store: store.flows([]), 400, "tenant is required"),
        (lambda store: store.flows([*ACME, ("prot", "tcp")]), 400, "unknown parameter 'prot'"),
    ],
)
def test_what_is_not_there_and_what_makes_no_sense(left, ask, status, message):
    with pytest.raises(ControlError, match=message) as caught:
        ask(RecordedFlows(left))
    assert caught.value.status == status


def test_one_that_lives_after_all_goes_on_writing(path):
    """Its file is read for as long as one likes, and nothing of what it writes is late or lost."""
    with write(path, "wait") as writer:
        reading = flowdb.open_offline(str(path))
        reading.execute("BEGIN")
        assert reading.execute("SELECT count(*) FROM flows").fetchone() == (300,)
        for number in (1000, 1001):
            writer.stdin.write(f"{number}\n")
            writer.stdin.flush()
            assert writer.stdout.readline() == f"written {number - 699} 0\n"
        assert reading.execute("SELECT count(*) FROM flows").fetchone() == (300,)  # as it was when it began
        reading.close()
        assert RecordedFlows(path).flows([*ACME, ("limit", "1")]).items[0].flow_id == "f00001001"
        writer.kill()


@pytest.mark.parametrize("content", [None, b"", b"no database at all, but text" * 100])
def test_a_file_that_is_none_of_ours_is_one_message(path, content):
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ControlError, match=f"cannot read the flow log {path}: "):
        RecordedFlows(path).flows(ACME)


def test_requests_of_a_proxy_that_is_gone(path):
    async def work():
        log = FlowLog(Records(path=str(path), max_age_s=1e10))
        for number in range(1, 4):
            log.submit_child(make_request(number))
        await log.close()

    asyncio.run(work())
    store = RecordedFlows(path)
    page = store.children("requests", [*ACME, ("limit", "2")])
    rest = store.children("requests", [*ACME, ("before", str(page.next))])
    assert [*page.items, *rest.items] == [make_request(number) for number in (3, 2, 1)]
    assert store.children("files", ACME).items == []


def test_a_file_of_a_proxy_that_knew_no_requests(path):
    write(path, "close").communicate()
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE children")
    connection.close()
    before = contents(path)
    assert RecordedFlows(path).children("requests", ACME).items == []
    assert RecordedFlows(path).flows([*ACME, ("http_status", "4xx")]).items == []
    assert contents(path) == before
