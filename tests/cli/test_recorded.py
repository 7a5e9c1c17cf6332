"""`oxyctl flows` of a proxy that is gone: what it recorded, and that this is said."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from proxy.settings import Records
from proxy.telemetry.flowlog import FlowLog
from tests.records import make_record

ACME = ("--tenant", "acme")
SAID = "the proxy is not running; these are its records\n"


def record(path, count=3):
    async def main():
        log = FlowLog(Records(path=str(path), max_age_s=1e10))
        for number in range(count):
            log.submit(make_record(number))
        await log.close()

    asyncio.run(main())


@pytest.fixture
def gone(tmp_path, oxyctl):
    """Run `oxyctl flows ...` against a proxy that was killed: its socket is there, and nobody listens."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "control.sock"))
    record(tmp_path / "flows.db")
    return lambda *words: oxyctl("flows", *words, "--control", str(tmp_path / "control.sock"))


def test_the_list_says_that_nobody_was_asked(gone):
    code, out, err = gone(*ACME)
    assert (code, err) == (0, SAID)
    assert len(out.splitlines()) == 4
    code, out, err = gone(*ACME, "--past", "--last", "1", "--format", "json")
    document = json.loads(out)
    assert (code, err, document["proxy_running"]) == (0, SAID, False)
    assert [item["flow_id"] for item in document["items"]] == ["f00000002"]


def test_one_flow(gone):
    code, out, err = gone("get", "f00000001", *ACME, "--format", "json")
    assert (code, err, json.loads(out)["proxy_running"]) == (0, SAID, False)
    code, out, err = gone("get", "f9", *ACME)
    assert (code, out, err) == (4, "", "error: tenant acme has no flow f9 on record\n")


def test_a_running_proxy_is_asked_itself(flows, proxy):
    proxy.past = [make_record(7)]
    code, out, err = flows(*ACME, "--format", "json")
    assert (code, err, json.loads(out)["proxy_running"]) == (0, "", True)


def test_what_only_a_running_proxy_has_fails_as_before(gone):
    for words in (("--live",), ("kill", "f00000001"), ("watch",)):
        code, out, err = gone(*words, *ACME)
        assert (code, out) == (1, "")
        assert "has ended" in err
        assert SAID not in err


def test_the_only_tenant_that_recorded_need_not_be_named(gone):
    assert gone().out == gone(*ACME).out != ""


def test_the_settings_beside_the_socket_say_where_the_records_are(gone, tmp_path):
    (tmp_path / "proxy.yaml").write_text(
        "tenants: {acme: {}}\nonramps: [{kind: connected, path: t.sock}]\nrecords: {path: other.db}\n"
    )
    record(tmp_path / "other.db", count=1)
    assert len(gone(*ACME).out.splitlines()) == 2


def test_without_records_it_is_the_old_message(oxyctl, tmp_path):
    code, out, err = oxyctl("flows", *ACME, "--control", str(tmp_path / "control.sock"))
    assert (code, out) == (1, "")
    assert err.startswith("error: no proxy is running here")
