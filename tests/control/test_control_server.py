"""The control API as its clients see it: over a real Unix socket."""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import socket
import stat
import subprocess
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.control import server as control_server
from proxy.control.schema import SCHEMA
from proxy.control.server import ControlServer
from proxy.errors import ProxyError
from tests.records import live_record, make_record


class Raw:
    """A client that sends bytes and reads bytes."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def ask(self, text):
        """One request, and the whole of its answer: status, headers, body."""
        self.socket.sendall(text if isinstance(text, bytes) else text.encode())
        return self.read_answer()

    def read_answer(self, head_only=False):
        data = self.read_until(lambda data: b"\r\n\r\n" in data)
        head, _, body = data.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        if not head_only:
            missing = int(headers["content-length"]) - len(body)
            body += self.read_until(lambda data: len(data) >= missing)
        return int(status.split()[1]), headers, body

    def read_until(self, enough):
        data = b""
        while not enough(data):
            part = self.socket.recv(65_536)
            if not part:
                break
            data += part
        return data


def get(path, target, method="GET"):
    with Raw(path) as client:
        status, headers, body = client.ask(f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return status, headers, json.loads(body)


def curl(path, *arguments):
    command = ["curl", "-sS", "--max-time", "20", "--unix-socket", path, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def flows(path, parameters):
    return json.loads(curl(path, f"http://x/v1/flows?{parameters}"))


# What is answered


def test_curl_lists_flows(server, proxy, path):
    proxy.live = [live_record(2)]
    proxy.past = [make_record(1), make_record(3, tenant="globex")]
    answer = flows(path, "tenant=acme")
    assert (answer["schema"], answer["kind"], answer["lost"], answer["truncated"]) == (SCHEMA, "flows", 0, False)
    assert [item["flow_id"] for item in answer["items"]] == ["f00000002", "f00000001"]
    assert set(answer["window"]) == {"from", "until", "oldest"}
    assert answer["items"][0]["state"] == "established"


def test_tenant_is_required_on_every_flow_endpoint(server, path):
    for method, target in (
        ("GET", "/v1/flows"),
        ("GET", "/v1/flows?tenant="),
        ("GET", "/v1/flows?all_tenants=false"),
        ("GET", "/v1/flows?tenant=acme&all_tenants=true"),
        ("GET", "/v1/flows/watch"),
        ("GET", "/v1/flows/f00000001"),
        ("DELETE", "/v1/flows/f00000001"),
    ):
        status, headers, body = get(path, target, method)
        assert (status, headers["content-type"]) == (400, "application/json"), target
        assert "tenant" in body["error"]


def test_a_view_that_gives_too_much_cannot_leak_another_tenant(server, proxy, path):
    proxy.live = [live_record(1), live_record(2, tenant="globex")]

    async def everything(query):
        return proxy.live

    proxy.live_flows = everything
    assert [item["tenant"] for item in flows(path, "tenant=acme")["items"]] == ["acme"]


def test_every_tenant_when_asked_for(server, proxy, path):
    proxy.live = [live_record(1), live_record(2, tenant="globex")]
    assert [item["tenant"] for item in flows(path, "all_tenants=true")["items"]] == ["globex", "acme"]


def test_live_and_past_can_be_chosen(server, proxy, path):
    proxy.live, proxy.past = [live_record(1)], [make_record(2)]
    assert [item["flow_id"] for item in flows(path, "tenant=acme&scope=live")["items"]] == ["f00000001"]
    assert [item["flow_id"] for item in flows(path, "tenant=acme&scope=past")["items"]] == ["f00000002"]


def test_a_flow_that_ends_during_the_query_comes_once_as_it_ended(server, proxy, path):
    proxy.live = [live_record(1)]

    def end():
        proxy.live, proxy.past = [], [make_record(1)]

    proxy.before_past = end
    assert [(item["flow_id"], item["event"]) for item in flows(path, "tenant=acme")["items"]] == [("f00000001", "end")]


@pytest.mark.parametrize("is_stored", [False, True])
def test_a_flow_that_ends_between_two_looks_comes_once_as_it_ended(server, proxy, path, is_stored):
    """It was live when the store was asked, and is gone when live flows are."""

    def end():
        proxy.past = [make_record(1)] if is_stored else []
        for put in proxy.ends_watchers:
            put(make_record(1))
            put(make_record(2, dst_port=9))

    proxy.before_past = end
    found = flows(path, f"tenant=acme&dst_port={make_record(1).dst_port}")["items"]
    assert [(item["flow_id"], item["event"]) for item in found] == [("f00000001", "end")]
    assert proxy.ends_watchers == []


def test_limit_sort_and_truncation_go_over_both(server, proxy, path):
    proxy.live, proxy.past = [live_record(n) for n in (1, 4, 5)], [make_record(n) for n in (2, 3, 6)]
    answer = flows(path, "tenant=acme&sort=start:asc&limit=4")
    assert [item["flow_id"][-1] for item in answer["items"]] == ["1", "2", "3", "4"]
    assert answer["truncated"] is True
    assert flows(path, "tenant=acme&limit=6")["truncated"] is False


def test_loss_is_told(server, proxy, path):
    proxy.lost = 3
    assert flows(path, "tenant=acme")["lost"] == 3


def test_many_flows_arrive_whole(server, proxy, path):
    proxy.live = [live_record(n) for n in range(3000)]
    answer = flows(path, "tenant=acme&limit=3000&sort=start:asc")
    assert [item["flow_id"] for item in answer["items"]] == [f"f{n:08d}" for n in range(3000)]


def test_one_flow(server, proxy, path):
    proxy.live, proxy.past = [live_record(1)], [make_record(2), make_record(3, tenant="globex")]
    for number in (1, 2):
        status, _, body = get_chunked(path, f"/v1/flows/f0000000{number}?tenant=acme")
        assert (status, body["kind"], body["items"][0]["flow_id"]) == (200, "flow", f"f0000000{number}")
    for target in ("/v1/flows/f00000003?tenant=acme", "/v1/flows/f9?tenant=acme"):
        status, _, body = get(path, target)
        assert status == 404
        assert body["error"].startswith("tenant acme has no flow f")


def get_chunked(path, target):
    out = curl(path, "-w", "\n%{http_code}", f"http://x{target}")
    body, _, status = out.rpartition("\n")
    return int(status), {}, json.loads(body)


def test_kill(server, proxy, path):
    proxy.live = [live_record(1), live_record(2, tenant="globex")]
    assert get(path, "/v1/flows/f00000002?tenant=acme", "DELETE")[0] == 404
    status, _, body = get(path, "/v1/flows/f00000001?tenant=acme", "DELETE")
    assert (status, body["items"]) == (200, [{"flow_id": "f00000001"}])
    assert [record.flow_id for record in proxy.live] == ["f00000002"]
    status, _, body = get(path, "/v1/flows/f00000001?tenant=acme", "DELETE")
    assert (status, body["error"]) == (404, "tenant acme has no live flow f00000001")


def test_status_tunnels_and_metrics(server, path):
    assert get(path, "/v1/status")[2]["items"][0]["node"] == "edge"
    assert get(path, "/v1/tunnels")[2]["items"][0]["id"] == "t1"
    assert get(path, "/v1/tunnels?tenant=globex")[2]["items"] == []
    assert curl(path, "http://x/metrics").startswith("# HELP oxy_start_time_seconds")


@pytest.mark.parametrize(
    ("method", "target", "status", "text"),
    [
        ("GET", "/", 404, "no such path: /"),
        ("GET", "/v1/flows/a/b", 404, "no such path"),
        ("POST", "/v1/flows", 405, "takes GET, HEAD"),
        ("PUT", "/v1/flows/f1", 405, "takes GET, DELETE, HEAD"),
        ("GET", "/v1/flows?tenant=acme&protcol=tcp", 400, "unknown parameter 'protcol'; did you mean 'protocol'?"),
        ("GET", "/v1/status?x=1", 400, "unknown parameter 'x'"),
        ("GET", "/v1/tunnels?tennant=x", 400, "unknown parameter 'tennant'; did you mean 'tenant'?"),
        ("GET", "/v1/tunnels?tenant=a&tenant=b", 400, "tenant: given twice"),
        ("GET", "/v1/flows?tenant=%ff", 400, "bad request target"),
        ("GET", "//[x/v1/flows", 400, "bad request target"),
    ],
)
def test_mistakes_are_told_in_json(server, path, method, target, status, text):
    found, headers, body = get(path, target, method)
    assert (found, headers["content-type"]) == (status, "application/json")
    assert text in body["error"]
    if status == 405:
        assert headers["allow"] == text.removeprefix("takes ")


def test_a_view_that_fails_is_a_500_and_a_log_line(server, proxy, path, caplog):
    proxy.status = lambda: 1 / 0
    assert get(path, "/v1/status")[0] == 500
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(("retryable", "status"), [(True, 503), (False, 500)])
def test_a_store_that_fails_says_why(server, proxy, path, retryable, status):
    def fail():
        raise ProxyError("cannot read the flow log", retryable=retryable)

    proxy.before_past = fail
    found, _, body = get(path, "/v1/flows?tenant=acme")
    assert (found, body["error"]) == (status, "cannot read the flow log")


# HTTP


def test_keep_alive_and_pipelining(server, path):
    request = b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n"
    with Raw(path) as client:
        assert [client.ask(request)[0] for _ in range(3)] == [200, 200, 200]
        client.socket.sendall(request * 2 + request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert client.read_until(lambda _: False).count(b"HTTP/1.1 200") == 3


@pytest.mark.parametrize("target", ["/v1/status", "/v1/flows?tenant=acme", "/v1/flows/watch?tenant=acme", "/nowhere"])
def test_head_has_headers_and_no_body(server, proxy, path, target):
    with Raw(path) as client:
        client.socket.sendall(f"HEAD {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        data = client.read_until(lambda _: False)
    assert data.startswith(b"HTTP/1.1 404" if target == "/nowhere" else b"HTTP/1.1 200")
    assert data.endswith(b"\r\n\r\n")
    assert proxy.watchers == {}


def test_http_1_0_is_answered_and_closed(server, path):
    with Raw(path) as client:
        client.socket.sendall(b"GET /v1/flows?tenant=acme HTTP/1.0\r\n\r\n")
        data = client.read_until(lambda _: False)
    assert json.loads(data.partition(b"\r\n\r\n")[2])["items"] == []


def test_a_body_is_read_and_ignored(server, path):
    with Raw(path) as client:
        head = b"GET /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
        assert client.ask(head + b"hello")[0] == 200
        assert client.ask(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 200


def test_a_client_that_waits_for_100_gets_it(server, path):
    with Raw(path) as client:
        client.socket.sendall(
            b"GET /v1/status HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"
        )
        assert client.read_until(lambda data: b"\r\n\r\n" in data).startswith(b"HTTP/1.1 100")
        assert client.ask(b"x")[0] == 200


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /v1/status HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 20_000, 431),
        (b"POST /v1/flows HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"x" * 70_000, 413),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET /v1/status HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),  # a TLS ClientHello, more or less
        (b"CONNECT origin:443 HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    ],
)
def test_bad_http_is_answered_and_closed(server, loop, path, request_, status):
    with Raw(path) as client:
        loop.do(lambda: client.socket.sendall(request_))  # all of it is there before the server looks
        found, headers, body = client.read_answer()
        assert found == status
        assert json.loads(body)["error"]
        assert headers["connection"] == "close"
        assert client.read_until(lambda _: False) == b""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(
    st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=60).map(lambda junk: b"GET /v1/flows?" + junk + b" HTTP/1.1\r\nHost: x\r\n\r\n"),
        st.binary(max_size=60).map(lambda junk: b"GET /v1/status HTTP/1.1\r\nHost: x\r\n" + junk + b"\r\n\r\n"),
        st.binary(max_size=60).map(
            lambda junk: b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + junk
        ),
    )
)
def test_any_bytes_are_answered_or_closed_without_a_traceback(server, path, caplog, data):
    with Raw(path) as client:
        with contextlib.suppress(BrokenPipeError):
            client.socket.sendall(data)
            client.socket.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            answer = client.read_until(lambda _: False)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
    assert get(path, "/v1/status")[0] == 200
    assert caplog.records == []


def test_an_idle_client_is_closed(start, loop, path):
    start(idle_timeout_s=0.05)

    def connected(sent):  # in the server's thread: it cannot be idle before it has sent
        client = Raw(path)
        client.socket.sendall(sent)
        return client

    for unfinished in (b"", b"GET /v1/sta", b"GET /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"):
        with loop.do(functools.partial(connected, unfinished)) as client:
            assert client.read_until(lambda _: False) == b""


def test_connections_are_limited(start, path):
    start(max_connections=2)
    request = b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n"
    with Raw(path) as first, Raw(path) as second:
        assert (first.ask(request)[0], second.ask(request)[0]) == (200, 200)
        with Raw(path) as third:
            status, headers, body = third.ask(request)
            assert (status, headers["connection"]) == (503, "close")
            assert json.loads(body)["error"] == "2 clients are connected already"
        assert first.ask(request)[0] == 200


# The socket


def test_only_the_owner_may_connect(server, path):
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_the_file_of_a_dead_proxy_is_replaced(start, path):
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(path)
    dead.close()
    start()
    assert get(path, "/v1/status")[0] == 200


def test_the_socket_of_a_live_proxy_is_respected(server, loop, proxy, path):
    with pytest.raises(ProxyError, match="another proxy is listening there"):
        loop.do(ControlServer(proxy, path).start())
    assert get(path, "/v1/status")[0] == 200


def test_a_file_that_is_not_a_socket_is_respected(loop, proxy, path):
    open(path, "w").close()
    with pytest.raises(ProxyError, match="not a socket"):
        loop.do(ControlServer(proxy, path).start())
    assert os.path.exists(path)


@pytest.mark.parametrize("name", ["x" * 200, "missing/control.sock"])
def test_a_path_that_cannot_be(loop, proxy, tmp_path, name):
    with pytest.raises(ProxyError, match="cannot listen on the control socket"):
        loop.do(ControlServer(proxy, str(tmp_path / name)).start())


def test_stop_removes_the_socket_and_closes_idle_clients(start, loop, path):
    server = start()
    with Raw(path) as client:
        client.ask(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
        loop.do(server.stop())
        assert client.read_until(lambda _: False) == b""
    assert not os.path.exists(path)


def test_stop_leaves_the_socket_of_a_successor(start, loop, path):
    server = start()
    os.unlink(path)
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(path)
        loop.do(server.stop())
        assert os.path.exists(path)


def test_nothing_stays_open(loop, proxy, path, monkeypatch):
    monkeypatch.setattr(control_server, "STOP_TIMEOUT_S", 0.1)

    def descriptors():
        gc.collect()
        return {name: target for name in os.listdir("/proc/self/fd") if (target := link(name))}

    def link(name):
        with contextlib.suppress(FileNotFoundError):
            return os.readlink(f"/proc/self/fd/{name}")

    before = descriptors()
    server = ControlServer(proxy, path)
    loop.do(server.start())
    proxy.live = [live_record(n) for n in range(1000)]
    with Raw(path) as stalled, Raw(path) as watcher, Raw(path) as leaver:
        stalled.socket.sendall(b"GET /v1/flows?tenant=acme&limit=1000 HTTP/1.1\r\nHost: x\r\n\r\n")
        stalled.read_answer(head_only=True)
        watcher.socket.sendall(b"GET /v1/flows/watch?tenant=acme HTTP/1.1\r\nHost: x\r\n\r\n")
        watcher.read_answer(head_only=True)
        leaver.socket.sendall(b"GET /v1/fl")
        leaver.socket.close()
        loop.do(server.stop())
    assert descriptors() == before
    assert proxy.watchers == {}
    assert [thread.name for thread in threading.enumerate() if "flowlog" in thread.name] == []
