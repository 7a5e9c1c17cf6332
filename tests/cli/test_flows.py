"""`oxyctl flows`: what it asks, what it prints, and how it exits."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios

import pytest

from proxy.control.schema import SORT_KEYS
from proxy.flow.query import Filters
from proxy.flow.record import Totals
from tests.records import live_record, make_record

ACME = ("--tenant", "acme")


def ids(result):
    return [item["flow_id"] for item in json.loads(result.out)["items"]]


# Whose flows


def test_without_a_tenant_it_names_those_there_are(flows):
    code, out, err = flows()
    assert (code, out) == (2, "")
    assert "--tenant is required: one of acme, globex; or --all-tenants" in err


def test_the_only_tenant_need_not_be_named(flows, proxy):
    proxy.tenants = {"acme": proxy.tenants["acme"]}
    proxy.live = [live_record(1)]
    assert ids(flows("--format", "json")) == ["f00000001"]
    for words in (("--aggregate-by", "user"), ("stats",), ("get", "f00000001")):
        assert flows(*words)[::2] == (0, "")


def test_without_a_tenant_and_a_proxy_it_says_what_is_missing(oxyctl, tmp_path):
    code, _, err = oxyctl("flows")
    assert (code, err) == (5, "error: no lab is running; `oxyctl lab up quickstart` starts one\n")
    code, _, err = oxyctl("flows", "--control", str(tmp_path / "nobody.sock"))
    assert code == 2
    assert "--tenant NAME is required" in err


def test_a_tenant_sees_its_own(flows, proxy):
    proxy.live = [live_record(1), live_record(2, tenant="globex")]
    assert ids(flows(*ACME, "--format", "json")) == ["f00000001"]
    assert ids(flows("--all-tenants", "--format", "json")) == ["f00000002", "f00000001"]
    assert flows(*ACME, "--all-tenants")[::2] == (2, "error: --tenant and --all-tenants contradict each other\n")


@pytest.mark.parametrize(
    "words",
    [(), ("--follow",), ("stats",), ("get", "f1"), ("explain", "f1"), ("kill", "f1"), ("export",), ("requests",)],
)
def test_a_tenant_that_nobody_knows_is_a_mistake(flows, words):
    code, _, err = flows(*words, "--tenant", "acne")
    assert (code, err.splitlines()[-1]) == (2, "error: --tenant: there is no tenant 'acne'; did you mean 'acme'?")


def test_a_tenant_that_only_records_know_is_none(flows, proxy):
    proxy.past = [make_record(1, tenant="initech")]
    assert flows("--tenant", "initech", "--user", "nobody").code == 0


# Which of them


@pytest.fixture
def asked(proxy, monkeypatch):
    """The queries that the proxy was asked."""
    queries = []
    answer = proxy.past_flows

    async def past_flows(query):
        queries.append(query)
        return await answer(query)

    monkeypatch.setattr(proxy, "past_flows", past_flows)
    return queries


@pytest.mark.parametrize(
    ("typed", "wanted", "unwanted"),
    [
        ("--user bob --not --port 443 --not --port 80", {"user": ("bob",)}, {"port": ((443, 443), (80, 80))}),
        ("--not --user=bob -4", {"version": (4,)}, {"user": ("bob",)}),
        ("--not -6 --dscp 46 --dscp 0", {"dscp": (46, 0)}, {"version": (6,)}),
        ("--host *.Example --not --min-bytes 1k", {"host": ("*.example",)}, {"min_bytes": 1000}),
        ("--policy office --level tls --verdict denied --offramp kernel --onramp gue --device x",
         {"policy": ("office",), "level": ("tls",), "verdict": ("denied",), "offramp": ("kernel",), "onramp": ("gue",),
          "device": ("x",)}, {}),
        ("--not --id f1 --not --min-duration 2s", {}, {"flow_id": ("f1",), "min_duration_ms": 2000}),
    ],
)  # fmt: skip
def test_filters_reach_the_server(flows, asked, typed, wanted, unwanted):
    assert flows(*ACME, *typed.split()).code == 0
    (query,) = asked
    assert {name: getattr(query, name) for name in wanted} == wanted
    assert query.excluded == Filters(**unwanted)


def test_a_condition_reaches_the_server(flows, asked, proxy):
    proxy.past = [make_record(1, dst_port=443), make_record(2)]
    proxy.live = [live_record(3, dst_port=443), live_record(4, user=None)]
    assert ids(flows(*ACME, "--format", "json", "--where", "net.dst.port == 443")) == ["f00000003", "f00000001"]
    assert asked[0].where == "net.dst.port == 443"


def test_what_a_condition_may_speak_of(flows):
    code, out, _ = flows("--where", "help")
    assert code == 0
    assert "net.dst.host" in out
    assert "flow.duration_s" in out


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--not"], "--not must precede a filter, as in --not --user bob (found 'nothing')"),
        (["--not", "--limit", "3"], "--not must precede a filter, as in --not --user bob (found '--limit')"),
        (["--not", "--port", "x"], "--not-port: not a port: 'x'"),
        (["--where", "net.dst.prt == 4"], "--where: 1:1: unknown field 'net.dst.prt'; did you mean 'net.dst.port'?"),
    ],
)
def test_a_filter_that_makes_no_sense_is_one_line(flows, typed, message):
    code, _, err = flows(*ACME, *typed)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


# What it prints


def test_table(flows, proxy):
    totals = Totals(client_payload_bytes=118, origin_payload_bytes=2_100_000)
    proxy.past = [make_record(1, total=totals, duration_ms=1250.0)]
    proxy.live = [live_record(2, dst="fd00:50::10", src="fd00::2", user=None)]
    result = flows(*ACME)
    assert result.code == 0
    header, live, past = (line.split() for line in result.lines)
    assert " ".join(header[:10]) == "TIME PROTO SOURCE DESTINATION STATE UP DOWN DURATION CLOSED BY"
    assert header[10:] == ["REASON", "ON-RAMP", "OFF-RAMP", "LEVEL", "USER"]
    assert live[1:5] == ["tcp", "[fd00::2]:40000", "[fd00:50::10]:80", "established"]
    assert live[-5:] == ["-", "connected", "-", "stream", "-"]
    shown = "tcp 100.96.0.2:40000 10.50.0.10:80 closed 118 B 2.1 MB 1.2 s client client_closed"
    shown += " connected - stream user@acme.example"
    assert " ".join(past[1:]) == shown


def test_columns_stand_under_their_headers(flows, proxy):
    proxy.past = [make_record(n, src="10.0.0.1" if n % 2 else "2001:db8:1:2:3:4:5:6") for n in range(4)]
    lines = flows(*ACME).lines
    for header in ("SOURCE", "DESTINATION", "STATE", "REASON", "USER"):
        place = lines[0].index(header)
        assert all(line[place - 1] == " " and line[place] != " " for line in lines)


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160, 200])
def test_a_terminal_is_never_overrun(server, proxy, path, width, tmp_path):
    proxy.past = [make_record(n, user="somebody-with-a-long-name@acme.example") for n in range(3)]
    lines = run_in_terminal(width, tmp_path, "flows", *ACME, "--control", path).splitlines()
    assert len(lines) == 4
    assert all(len(line) <= width for line in lines)
    assert all("10.50.0.10:80" in line for line in lines[1:])
    assert ("USER" in lines[0]) == (width >= 200)


def run_in_terminal(width, tmp_path, *arguments):
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(width), "NO_COLOR": "1", "OXYCTL_RUN_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "oxyctl", *arguments]
    with subprocess.Popen(command, stdout=theirs, env=environment):
        os.close(theirs)
        data = b""
        try:
            while part := os.read(ours, 65_536):
                data += part
        except OSError:  # EIO: the terminal's other end is closed
            pass
        os.close(ours)
    return data.decode()


def test_watch_in_a_terminal_is_a_monitor_with_keys(server, proxy, path, tmp_path):
    proxy.live = [live_record(1)]
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    environment = {**os.environ, "COLUMNS": "120", "LINES": "24", "OXYCTL_RUN_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "oxyctl", "flows", "watch", *ACME, "--control", path, "--interval", "0.1"]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, env=environment) as process:
        read_until(ours, b"1 live flow, 0 B/s up, 0 B/s down; by rate")
        os.write(ours, b"b")
        read_until(ours, b"by bytes")
        os.write(ours, b"q")
        assert read_until(ours, b"\x1b[?1049l")
        assert process.wait(10) == 0
    assert termios.tcgetattr(theirs) == before  # keys are shown again
    os.close(ours)
    os.close(theirs)


def read_until(terminal, wanted):
    data = b""
    while wanted not in data:
        assert select.select([terminal], [], [], 20)[0], data
        data += os.read(terminal, 65_536)
    return data


def test_every_tenant_has_a_column_when_all_are_shown(flows, proxy):
    proxy.live = [live_record(1, tenant="globex")]
    lines = flows("--all-tenants").lines
    assert (lines[0].split()[0], lines[1].split()[0]) == ("TENANT", "globex")


def test_what_a_client_calls_itself_cannot_touch_the_terminal(flows, proxy):
    proxy.live = [live_record(1, user="\x1b[2Jeve\r\n\x9bcoffee")]
    out = flows(*ACME).out
    assert out.count("\n") == 2
    assert out.replace("\n", "").isprintable()


def test_nothing_found_is_no_failure(flows):
    code, out, err = flows(*ACME)
    assert (code, out.splitlines()[0].split()[0]) == (0, "TIME")
    assert "no flows match" in err


def test_json_is_the_envelope(flows, proxy):
    proxy.past, proxy.lost = [make_record(1)], 2
    answer = json.loads(flows(*ACME, "--format", "json").out)
    assert (answer["schema"], answer["kind"], answer["lost"], answer["truncated"]) == ("oxyctl/1", "flows", 2, False)
    assert set(answer["window"]) == {"from", "until", "oldest"}
    assert answer["items"][0]["total"]["origin_payload_bytes"] == 2000


def test_jsonl_is_a_record_a_line(flows, proxy):
    proxy.past = [make_record(1), make_record(2)]
    assert [json.loads(line)["flow_id"] for line in flows(*ACME, "--format", "jsonl").lines] == [
        "f00000002",
        "f00000001",
    ]


def test_csv_survives_every_value(flows, proxy):
    user = 'a "quoted", name\nof two lines'
    proxy.past = [make_record(1, user=user, dst_host=None)]
    (row,) = csv.DictReader(io.StringIO(flows(*ACME, "--format", "csv").out))
    assert (row["user"], row["dst_host"], row["origin_payload_bytes"]) == (user, "", "2000")
    assert row["start"] == str(make_record(1).start)


def test_fields(flows, proxy):
    proxy.past = [make_record(1)]
    assert flows(*ACME, "--fields", "flow_id,bytes").lines[1].split() == ["f00000001", "2.1", "kB"]
    assert flows(*ACME, "--fields", "flow-id,bytes", "--format", "csv").lines == ["flow_id,bytes", "f00000001,2100"]
    items = json.loads(flows(*ACME, "--fields", "dst_port", "--format", "json").out)["items"]
    assert items == [{"dst_port": 80}]
    code, _, err = flows(*ACME, "--fields", "flow_id,usr")
    assert code == 2
    assert "unknown field 'usr'; did you mean 'user'?" in err
    assert "close_reason" in flows(*ACME, "--fields", "help").err


def test_it_says_what_is_missing(flows, proxy):
    proxy.live, proxy.lost = [live_record(n) for n in range(3)], 4
    err = flows(*ACME, "--limit", "2").err
    assert "more flows match than the 2 shown: raise --limit" in err
    assert "4 records of this period lost" in err


# What it asks


def test_filters_run_on_the_server(flows, proxy):
    asked = []
    past_flows = proxy.past_flows
    proxy.past_flows = lambda query: asked.append(query) or past_flows(query)
    flows(*ACME, "--protocol", "tcp", "--protocol", "udp", "--dst", "10.0.0.0/8", "--port", "80", "--state", "closed",
          "--close-reason", "denied", "--user", "ann", "--min-bytes", "1k", "--min-duration", "2s", "--since", "5m",
          "--until", "1m", "--sort", "bytes:asc", "--limit", "7", "--src-port", "1-9", "--ip", "::/0")  # fmt: skip
    (query,) = asked
    assert (query.tenant, query.protocol, query.port, query.state) == ("acme", ("tcp", "udp"), ((80, 80),), ("closed",))
    assert (query.close_reason, query.user, query.min_bytes, query.min_duration_ms) == (
        ("denied",),
        ("ann",),
        1000,
        2000,
    )
    assert (query.sort, query.descending, query.limit, query.src_port) == ("bytes", False, 7, ((1, 9),))
    assert query.until - query.since == pytest.approx(240e9, abs=1e9)
    assert len(query.dst) == len(query.ip) == 1


def test_live_past_first_and_last(flows, proxy):
    proxy.live, proxy.past = [live_record(2)], [make_record(1), make_record(3)]
    as_json = (*ACME, "--format", "json")
    assert ids(flows(*as_json, "--live")) == ["f00000002"]
    assert ids(flows(*as_json, "--past")) == ["f00000003", "f00000001"]
    assert ids(flows(*as_json, "--live", "--past")) == ["f00000003", "f00000002", "f00000001"]
    assert ids(flows(*as_json, "--last", "2")) == ["f00000003", "f00000002"]
    assert ids(flows(*as_json, "--first", "2")) == ["f00000001", "f00000002"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--src", "10.0.0.300"), "--src: not an address or prefix: '10.0.0.300'"),
        (("--protocol", "tpc"), "--protocol: unknown value 'tpc'; did you mean 'tcp'?"),
        (("--close-reason", "denid"), "--close-reason: unknown value 'denid'; did you mean 'denied'?"),
        (("--since", "soon"), "--since: not a time: 'soon'"),
        (("--sort", "size"), "--sort: unknown field 'size'"),
        (("--limit", "0"), "--limit: not a number"),
        (("--last", "3", "--sort", "bytes"), "--last and --first set the order and the limit"),
        (("--follow", "--since", "5m"), "--since does not apply to future events"),
        (("--follow", "--format", "json"), "use --format jsonl"),
        (("--format", "xml"), "xml"),
        (("--no-such-flag",), "--no-such-flag"),
        (("--lab", "x"), "--control names a proxy without a lab"),
    ],
)
def test_nonsense_is_a_usage_error(flows, flags, message):
    code, out, err = flows(*ACME, *flags)
    assert (code, out) == (2, "")
    assert message in err


def test_no_lab(oxyctl):
    code, _, err = oxyctl("flows", *ACME)
    assert code == 5
    assert "no lab is running" in err
    assert oxyctl("flows", *ACME, "--lab", "nope").code == 5


def test_no_proxy(oxyctl, path):
    code, _, err = oxyctl("flows", *ACME, "--control", path)
    assert code == 1
    assert err.startswith("error: no proxy is running here")


# One flow


def test_get(flows, proxy):
    proxy.past = [make_record(1)]
    lines = dict(line.split(maxsplit=1) for line in flows(*ACME, "get", "f00000001").lines)
    assert (lines["flow_id"], lines["close_reason"], lines["origin_payload_bytes"]) == (
        "f00000001",
        "client_closed",
        "2000",
    )
    answer = json.loads(flows("get", "f00000001", *ACME, "--format", "json").out)
    assert (answer["kind"], len(answer["items"])) == ("flow", 1)
    code, _, err = flows("get", "f9", *ACME)
    assert (code, err) == (4, "error: tenant acme has no flow f9\n")
    assert flows("get", "f00000001").code == 2


def test_kill(flows, proxy):
    proxy.live = [live_record(1), live_record(2, tenant="globex")]
    assert flows("kill", "f00000002", *ACME).code == 4
    assert flows("kill", "f00000001", *ACME).code == 0
    assert [record.flow_id for record in proxy.live] == ["f00000002"]
    assert flows("kill", "f00000001", *ACME).code == 4


# As it happens


def start_oxyctl(path, *arguments):
    command = [sys.executable, "-m", "oxyctl", "flows", "--control", path, *ACME, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("command", [("--follow",), ("watch",)])
def test_follow_prints_events_until_interrupted(server, loop, proxy, path, command):
    with start_oxyctl(path, *command) as following:
        proxy.wait_for_watchers(1)
        assert following.stdout.readline().split()[:3] == ["TIME", "EVENT", "PROTO"]
        for record in (live_record(1, event="start"), make_record(2, tenant="globex"), make_record(1)):
            loop.do(lambda record=record: proxy.emit(record))
        events = [following.stdout.readline().split()[1] for _ in range(2)]
        following.send_signal(signal.SIGINT)
        out, err = following.communicate(timeout=20)
    assert (events, following.returncode, out, err) == (["start", "end"], 0, "", "")


def test_follow_in_json_lines_until_the_proxy_stops(start, loop, proxy, path):
    server = start()
    with start_oxyctl(path, "-f", "--format", "jsonl", "--protocol", "tcp") as following:
        proxy.wait_for_watchers(1)
        loop.do(lambda: proxy.emit(live_record(1, protocol="udp")))
        loop.do(lambda: proxy.emit(live_record(2)))
        assert json.loads(following.stdout.readline())["flow_id"] == "f00000002"
        loop.do(server.stop())
        _, err = following.communicate(timeout=20)
    assert (following.returncode, err) == (1, "error: the proxy has stopped\n")


def test_a_reader_that_leaves_ends_it(server, loop, proxy, path):
    proxy.live = [live_record(n) for n in range(2000)]
    with start_oxyctl(path, "--limit", "2000", "--format", "jsonl") as listing:
        assert json.loads(listing.stdout.readline())
        listing.stdout.close()
        err = listing.stderr.read()
        listing.wait(timeout=20)
    assert "Traceback" not in err
    assert listing.returncode == 0


def test_completion_knows_tenants_and_is_silent_without_a_proxy(server, path, tmp_path):
    for socket_, expected in ((path, ["acme"]), (str(tmp_path / "none"), [])):
        words = f"oxyctl flows --control {socket_} --tenant a"
        environment = {**os.environ, "_OXYCTL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "5"}
        done = subprocess.run(
            [sys.executable, "-c", "from oxyctl.cli import app; app(prog_name='oxyctl')"],
            env=environment | {"OXYCTL_RUN_DIR": str(tmp_path)}, capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        assert (done.stdout.split(), done.stderr) == (expected, "")


def test_sort_names_are_in_the_help_of_the_shell():
    from oxyctl.cli.flow_options import choices

    assert choices("sort")("d") == [name for name in SORT_KEYS if name.startswith("d")]
    assert choices("protocol")("i") == ["icmp", "icmpv6"]


# Counted together


def test_groups_are_a_table(flows, proxy):
    proxy.past = [make_record(n, user="ann" if n % 3 else "bob") for n in range(6)]
    proxy.live = [live_record(7, user="ann")]
    result = flows(*ACME, "--aggregate-by", "user,dst-port", "--top", "1")
    header, row = (line.split() for line in result.lines)
    assert header == ["USER", "DST", "PORT", "FLOWS", "LIVE", "UP", "DOWN", "BYTES", "DURATION", "FIRST", "LAST"]
    assert (row[:4], row[-1]) == (["ann", "80", "5", "1"], "now")


def test_groups_for_programs(flows, proxy):
    proxy.past = [make_record(1), make_record(2, user=None), make_record(3)]
    answer = json.loads(flows(*ACME, "--aggregate-by", "user", "--sort", "flows", "--format", "json").out)
    assert (answer["kind"], answer["lost"], answer["truncated"]) == ("flow-groups", 0, False)
    assert [(item["user"], item["flows"], item["bytes"]) for item in answer["items"]] == [
        ("user@acme.example", 2, 4200),
        (None, 1, 2100),
    ]
    lines = flows(*ACME, "--aggregate-by", "user", "--format", "csv").lines
    assert lines[0] == "user,flows,live,up,down,bytes,duration_ms,first,last"
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--aggregate-by usr", "--aggregate-by: unknown field 'usr'; did you mean 'user'?"),
        ("--aggregate-by user --sort usr", "--sort: groups have no 'usr'"),
        ("--aggregate-by user --last 3", "--last does not apply to groups"),
        ("--top 3 --limit 4", "--top sets the order and the limit"),
    ],
)
def test_groups_that_make_no_sense(flows, typed, message):
    code, _, err = flows(*ACME, *typed.split())
    assert code == 2
    assert message in err


def test_the_top_of_a_list_is_what_moved_most(flows, proxy):
    proxy.past = [make_record(n, total=Totals(client_payload_bytes=n)) for n in (3, 9, 5)]
    assert ids(flows(*ACME, "--top", "2", "--format", "json")) == ["f00000009", "f00000005"]


def test_statistics(flows, proxy):
    proxy.past = [make_record(n, close_reason="denied" if n else "client_closed") for n in range(3)]
    out = flows("stats", *ACME).out
    assert "no records lost" in out
    assert "CLOSE REASON" in out
    answer = json.loads(flows("stats", *ACME, "--format", "json").out)
    assert [item["by"] for item in answer["items"]][:2] == ["tenant", "protocol"]


def test_explain(flows, proxy):
    proxy.past = [make_record(1, close_reason="origin_refused")]
    code, out, _ = flows("explain", *ACME, "f00000001")
    assert code == 0
    assert "the origin refused the connection" in out
    assert flows("explain", *ACME, "f2").code == 4
