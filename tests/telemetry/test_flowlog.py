"""The flow log keeps what it is given, within its bounds, and says what it could not keep."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import time

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.errors import ProxyError
from proxy.flow.query import SORT_KEYS, FlowQuery, StoredFlow, predicate, sort_flows
from proxy.flow.record import FlowRecord
from proxy.settings import Records
from proxy.telemetry import flowdb, flowsql
from proxy.telemetry.flowlog import FlowLog
from proxy.telemetry.flowread import read_page, read_rows
from proxy.telemetry.lost_records import LostRecords
from proxy.telemetry.rows import insert, rows_of
from proxy.telemetry.strings import StringIds, Strings
from tests.queries import queries
from tests.records import BASE, SECOND, make_record, records

ALL = FlowQuery(tenant="acme", limit=20_000)


def ids(page):
    return [flow.flow_id for flow in page.flows]


def submit(count, first=0, **changes):
    async def work(log):
        for number in range(first, first + count):
            log.submit(make_record(number, **changes))

    return work


async def everything(log):
    return await log.query(ALL)


def test_what_was_submitted_last_is_there_after_reopening(run):
    run(submit(5000))
    page = run(everything)
    assert len(page.flows) == 5000
    assert page.flows[0].flow_id == "f00004999"
    assert page.lost == 0


def test_a_record_comes_back_as_it_was(run):
    record = make_record(user=None, dst="fd00:50::10", src="fd00::2", history="ShADadFf")

    async def work(log):
        log.submit(record)
        return await log.query(ALL)

    (flow,) = run(work).flows
    assert msgspec.json.decode(flow.record, type=FlowRecord) == record


def test_a_query_sees_what_was_submitted_before_it(run):
    async def work(log):
        for number in range(100):
            log.submit(make_record(number))
            page = await log.query(ALL)
            assert ids(page)[0] == f"f{number:08d}"
        return page

    assert len(run(work).flows) == 100


def test_a_page_states_its_window_and_whether_it_was_cut(run):
    async def work(log):
        await submit(10)(log)
        cut = await log.query(FlowQuery(tenant="acme", since=BASE, until=BASE + 5 * SECOND, limit=3))
        whole = await log.query(FlowQuery(tenant="acme", limit=10))
        nothing = await log.query(FlowQuery(tenant="globex"))
        return cut, whole, nothing

    before = time.time_ns()
    cut, whole, nothing = run(work)
    assert (cut.window.since, cut.window.until, cut.window.oldest) == (BASE, BASE + 5 * SECOND, BASE + 2 * SECOND)
    assert ids(cut) == ["f00000005", "f00000004", "f00000003"]
    assert cut.truncated
    assert (whole.truncated, whole.window.since) == (False, None)
    assert before <= whole.window.until <= time.time_ns()
    assert (nothing.flows, nothing.window.oldest, nothing.truncated) == ([], None, False)


def test_tenants_are_apart(run):
    async def work(log):
        await submit(3)(log)
        await submit(2, first=10, tenant="globex")(log)
        return [ids(await log.query(FlowQuery(tenant=tenant))) for tenant in ("acme", "globex", None)]

    acme, globex, both = run(work)
    assert (len(acme), globex, len(both)) == (3, ["f00000011", "f00000010"], 5)


def test_rows_are_bounded_and_the_oldest_goes_first(run):
    async def work(log):
        await submit(250)(log)
        await log.flush()
        await submit(50, first=250)(log)
        return await log.query(ALL), log.status()

    page, status = run(work, max_rows=100)
    assert ids(page) == [f"f{number:08d}" for number in range(299, 199, -1)]
    assert (status.stored, status.lost, status.oldest) == (100, 0, BASE + 202 * SECOND)


def test_rows_are_bounded_when_the_bound_was_lowered(run):
    run(submit(300))

    async def work(log):
        await submit(1, first=300)(log)
        return await log.query(ALL)

    assert len(run(work, max_rows=10).flows) == 10


def test_age_is_bounded(run):
    now = time.time_ns()

    async def work(log):
        for number, age_s in enumerate((1000, 500, 10)):
            log.submit(make_record(number, end=now - age_s * SECOND))
        await log.flush()
        return await log.query(ALL), log.status()

    page, status = run(work, max_age_s=100)
    assert ids(page) == ["f00000002"]
    assert (status.stored, status.oldest) == (1, now - 10 * SECOND)


def test_an_overflowing_queue_counts_what_it_loses(run):
    async def work(log):
        await submit(500)(log)  # the writer lingers: it cannot keep up with ten
        page = await log.query(ALL)
        return page, log.status()

    page, status = run(work, queue_records=10)
    assert status.lost > 0
    assert len(page.flows) + status.lost == 500
    assert page.lost == status.lost


def test_losses_are_remembered_and_belong_to_a_tenant_and_a_time(run):
    lost = run(submit_and_count(500), queue_records=10)
    assert lost > 0

    async def again(log):
        queries = [ALL, FlowQuery(tenant="globex"), FlowQuery(tenant=None), FlowQuery(tenant="acme", until=BASE)]
        return [(await log.query(query)).lost for query in queries], log.status().lost

    assert run(again) == ([lost, 0, lost, 0], 0)


def submit_and_count(count):
    async def work(log):
        await submit(count)(log)
        await log.flush()
        return log.status().lost

    return work


def test_after_closing_records_are_lost_and_queries_refused(run):
    async def work(log):
        await log.close()
        log.submit(make_record())
        with pytest.raises(ProxyError, match="closed"):
            await log.query(ALL)
        return log.status().lost

    assert run(work) == 1


def test_a_flow_is_stored_once(run, caplog):
    async def work(log):
        log.submit(make_record(1))
        log.submit(make_record(1, close_reason="unknown"))
        return await log.query(ALL), log.status().stored

    page, stored = run(work)
    assert (ids(page), stored) == (["f00000001"], 1)
    assert b"client_closed" in page.flows[0].record
    assert "1 records carry the id of a stored flow" in caplog.text


def test_a_record_that_cannot_be_stored_takes_no_other_with_it(run, caplog):
    async def work(log):
        log.submit(make_record(1, src="nonsense"))
        log.submit(make_record(2, user="\ud800"))
        log.submit(make_record(3))
        return await log.query(ALL)

    page = run(work)
    assert (ids(page), page.lost) == (["f00000003"], 2)
    assert "flow f00000001 cannot be stored" in caplog.text


def test_only_the_owner_may_read(run, path):
    async def work(log):
        await submit(1)(log)
        await log.flush()
        return {name: stat.S_IMODE(os.stat(path + name).st_mode) for name in ("", "-wal", "-shm")}

    assert run(work) == {"": 0o600, "-wal": 0o600, "-shm": 0o600}


@pytest.mark.parametrize("content", [b"root:x:0:0:root\n" * 100, b"x", b"SQLite format 3\0" + bytes(4080)])
def test_a_foreign_file_is_refused_and_left_alone(path, content):
    with open(path, "wb") as file:
        file.write(content)
    with pytest.raises(ProxyError, match="is not a flow log of this proxy"):
        FlowLog(Records(path=path))
    with open(path, "rb") as file:
        assert file.read() == content


def test_a_file_of_zeros_is_moved_aside(run, path, caplog):
    """As a crash of the machine leaves it."""
    with open(path, "wb") as file:
        file.write(bytes(8192))
    run(submit(1))
    assert "moved to" in caplog.text
    (aside,) = [name for name in os.listdir(os.path.dirname(path)) if "damaged" in name]
    assert os.path.getsize(os.path.join(os.path.dirname(path), aside)) == 8192


def test_a_foreign_database_is_refused(path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(ProxyError, match="is not a flow log of this proxy"):
        FlowLog(Records(path=path))


def test_a_newer_version_is_refused(run, path):
    run(submit(1))
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ProxyError, match="has version 99"):
        FlowLog(Records(path=path))


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ProxyError, match="cannot open the flow log"):
        FlowLog(Records(path=str(tmp_path / "missing" / "flows.db")))


def test_an_empty_file_is_used(run, path):
    open(path, "wb").close()
    run(submit(1))
    assert len(run(everything).flows) == 1


def damage(path):
    size = os.path.getsize(path)
    with open(path, "r+b") as file:
        file.seek(100)
        file.write(b"\xff" * (size - 100))


def aside(path):
    directory, name = os.path.split(path)
    return [entry for entry in os.listdir(directory) if entry.startswith(name + ".damaged-")]


def test_a_damaged_file_is_moved_aside_and_a_new_one_begins(run, path, caplog):
    run(submit(50))
    damage(path)
    run(submit(1, first=50))
    assert ids(run(everything)) == ["f00000050"]
    assert len(aside(path)) == 1
    assert "is damaged" in caplog.text


def test_a_file_damaged_while_in_use_is_moved_aside(run, path):
    run(submit(200))

    async def work(log):
        await log.flush()  # the writer has looked at its file, and waits
        damage(path)
        with pytest.raises(ProxyError, match="cannot read the flow log"):
            await log.query(ALL)
        log.submit(make_record(1000))
        return await log.query(ALL)

    assert ids(run(work)) == ["f00001000"]
    assert len(aside(path)) == 1


def test_a_removed_file_is_made_again(run, path):
    async def work(log):
        log.submit(make_record(1))
        await log.flush()
        for name in ("", "-wal", "-shm"):
            os.unlink(path + name)
        log.submit(make_record(2))
        return await log.query(ALL), log.status().stored

    page, stored = run(work)
    assert (ids(page), stored) == (["f00000002"], 1)


def test_a_full_disk_is_counted_and_survived(run, monkeypatch, caplog):
    disk = {"pages": 0}
    opened = flowdb.open_writer

    def open_on_small_disk(path):
        connection = opened(path)
        if disk["pages"]:
            connection.execute(f"PRAGMA max_page_count = {disk['pages']}")
        return connection

    monkeypatch.setattr(flowdb, "open_writer", open_on_small_disk)

    async def work(log):
        await submit(100)(log)
        before = await log.query(ALL)
        log._disconnect()
        disk["pages"] = 1  # as many as there are already
        await submit(100, first=100, user="x" * 8000)(log)  # none fits into a page that there is
        during = await log.query(ALL)
        disk["pages"] = 0
        await submit(100, first=200)(log)
        return before, during, await log.query(ALL), log.status()

    before, during, after, status = run(work)
    assert (len(before.flows), before.lost) == (100, 0)
    assert (len(during.flows), during.lost) == (100, 100)
    assert (len(after.flows), after.lost, status.lost, status.stored) == (200, 100, 100, 200)
    assert caplog.text.count("cannot be written: database or disk is full") == 1
    assert "written again; records lost so far: 100" in caplog.text


@pytest.mark.slow
def test_a_hundred_thousand_records(run):
    async def work(log):
        for number in range(100_000):
            log.submit(make_record(number, tenant=f"t{number % 10}", src_port=number % 65_536))
        started = time.perf_counter()
        await log.flush()
        written_s = time.perf_counter() - started
        return written_s, await log.query(FlowQuery(tenant="t3", limit=50)), log.status()

    written_s, newest, status = run(work, queue_records=100_000, max_rows=90_000)
    assert (status.stored, status.lost) == (90_000, 0)
    assert ids(newest)[:2] == ["f00099993", "f00099983"]
    assert written_s < 60


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(flows=st.lists(records(), max_size=15, unique_by=lambda record: record.flow_id), query=queries())
def test_sql_and_python_agree_on_every_query(tmp_path, flows, query):
    connection = flowdb.open_writer(str(tmp_path / "flows.db"))
    try:
        connection.execute("DELETE FROM flows")
        string_ids = StringIds(connection)
        insert(connection, [rows_of(record, string_ids) for record in flows])
        flowsql.prepare(connection, query)
        statements = [flowsql.select(query), flowsql.select(query, is_recent=True)]
        page = read_page(connection, query, LostRecords())
        found = [read_rows(connection.execute(*each).fetchall(), Strings(connection)) for each in statements]
    finally:
        connection.close()
    wanted, key = predicate(query), SORT_KEYS[query.sort]
    expected = sort_flows([StoredFlow(key(r), r.flow_id, b"") for r in flows if wanted(r)], query)[: query.limit + 1]
    ids_ = [flow.flow_id for flow in expected]
    assert ([flow.flow_id for flow in page.flows], page.truncated) == (ids_[: query.limit], len(ids_) > query.limit)
    for each in found:
        assert [flow[:2] for flow in each] == [flow[:2] for flow in expected]


@pytest.mark.parametrize(
    ("statement", "way"),
    [
        (flowsql.select(FlowQuery(tenant="acme")), "SEARCH flows USING PRIMARY KEY (tenant=?)"),
        (flowsql.select(FlowQuery(tenant="acme", since=BASE), is_recent=True), "INDEX flows_by_end (ended>?)"),
        (flowsql.lookup(FlowQuery(tenant="acme", flow_id=("f1",))), "SEARCH bodies USING PRIMARY KEY (flow_id=?)"),
    ],
)
def test_the_usual_queries_use_an_index(path, statement, way):
    connection = flowdb.open_writer(path)
    try:
        plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement[0]}", statement[1]))
    finally:
        connection.close()
    assert way in plan


def test_a_proxy_that_was_killed_at_once_leaves_a_log_that_opens(tmp_path):
    """What says whose the file is must not stand in the write-ahead log alone: nobody had the time to merge it."""
    path = tmp_path / "flows.db"
    script = (
        "import os, sys; from proxy.telemetry import flowdb;flowdb.open_writer(sys.argv[1]); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script, path], check=False)
    assert done.returncode == -9
    flowdb.open_writer(str(path)).close()


def test_what_ended_a_moment_before_a_kill_is_on_record(tmp_path):
    """Nobody flushes and nobody closes: the writer itself has a quarter of a second."""
    path = tmp_path / "flows.db"
    script = """
import sys, time
from proxy.settings import Records
from proxy.telemetry.flowlog import FlowLog
from tests.records import make_record
log = FlowLog(Records(path=sys.argv[1], max_age_s=1e10))
for number in range(100):
    log.submit(make_record(number))
print(flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        submitted = time.monotonic()
        try:
            while count_rows(path) < 100 and time.monotonic() < submitted + 30:
                time.sleep(0.02)
            took = time.monotonic() - submitted
        finally:
            process.kill()
    assert count_rows(path) == 100
    assert took < 10  # 0.3 s on a machine that has nothing else to do


def count_rows(path):
    connection = flowdb.open_reader(str(path))
    try:
        return connection.execute("SELECT count(*) FROM flows").fetchone()[0]
    finally:
        connection.close()
