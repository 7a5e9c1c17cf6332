"""The client of the control socket: what it returns, and how it says that it cannot."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from proxy.control.client import ControlClient, ControlError
from proxy.control.schema import Lost
from tests.children import make_channel, make_request
from tests.records import live_record, make_record

ACME = [("tenant", "acme")]


@pytest.fixture
def client(server, path):
    return ControlClient(path, timeout_s=20)


def test_what_the_proxy_says_is_typed(client, proxy):
    proxy.live, proxy.past = [live_record(1)], [make_record(2)]
    assert client.status().node == "edge"
    assert client.tunnels()[0].addresses == ["100.96.0.2"]
    assert client.tunnels("globex") == []
    answer = client.flows([*ACME, ("src", "100.96.0.0/16"), ("port", "80"), ("port", "443")])
    assert answer.items == [make_record(2), live_record(1)]
    assert client.flow("f00000002", ACME) == make_record(2)
    client.kill("f00000001", ACME)
    assert proxy.live == []


def test_a_refusal_has_a_status_and_the_proxys_words(client):
    with pytest.raises(ControlError, match="tenant is required") as caught:
        client.flows([])
    assert caught.value.status == 400
    with pytest.raises(ControlError, match="tenant acme has no flow a/b") as caught:
        client.flow("a/b", ACME)
    assert caught.value.status == 404


def test_children_come_in_pages_and_are_typed(client, proxy):
    proxy.children = [make_request(1, status=404), make_channel(), *(make_request(n, host="Git.lab") for n in (2, 3))]
    page = client.children("requests", [*ACME, ("limit", "2")])
    assert page.items == [make_request(3, host="Git.lab"), make_request(2, host="Git.lab")]
    rest = client.children("requests", [*ACME, ("before", str(page.next))])
    assert (rest.items, rest.next, page.truncated) == ([make_request(1, status=404)], None, True)
    assert client.children("channels", [*ACME, ("status", "0")]).items == [make_channel()]
    assert client.children("requests", [*ACME, ("not_host", "git.*"), ("status", "4xx")]).items == rest.items


@pytest.mark.parametrize(
    ("pairs", "problem"),
    [
        ([], "tenant is required"),
        ([*ACME, ("stauts", "4xx")], "unknown parameter 'stauts'; did you mean 'status'"),
        ([*ACME, ("status", "6xx")], "status: not a status: '6xx'"),
        ([*ACME, ("before", "x")], "before: not a number"),
        ([*ACME, ("since", "1m"), ("until", "2m")], "until: is before since"),
    ],
)
def test_what_is_asked_of_children_is_checked(client, pairs, problem):
    with pytest.raises(ControlError, match=problem) as caught:
        client.children("requests", pairs)
    assert caught.value.status == 400


def test_watching(start, loop, proxy, path):
    server = start()
    with ControlClient(path).watch(ACME) as events:
        loop.do(lambda: proxy.emit(live_record(1)))
        assert next(events) == live_record(1)
        loop.do(server.stop())
        assert list(events) == []


def test_leaving_a_watch_hangs_up(server, proxy, path):
    with ControlClient(path).watch(ACME):
        proxy.wait_for_watchers(1)
    proxy.wait_for_watchers(0)


def test_no_socket(path):
    with pytest.raises(ControlError, match="no proxy is running here: there is no control socket"):
        ControlClient(path).status()


def test_a_dead_proxys_socket(path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    with pytest.raises(ControlError, match="has ended"):
        ControlClient(path).status()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every socket")
def test_a_socket_of_somebody_else(server, path):
    os.chmod(path, 0)
    with pytest.raises(ControlError, match="not allowed to open"):
        ControlClient(path).status()


def test_permission_is_explained(path):
    assert "not allowed to open the control socket" in ControlClient(path)._explain(PermissionError())


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "went away instead of answering"),
        (b"not HTTP at all\r\n\r\n", "went away instead of answering"),
        (HEAD + b"Content-Length: 100\r\n\r\n{", "in the middle of its answer"),
        (HEAD + b"Content-Length: 2\r\n\r\n[]", "another version of the proxy"),
        (HEAD + b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"ite', "in the middle of its answer"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops", "the proxy answered 500"),
    ],
)
def test_bad_answers(path, answer, message):
    with answering(path, answer), pytest.raises(ControlError, match=message):
        ControlClient(path).status()


def test_a_proxy_that_dies_during_a_watch(path):
    line = b'{"lost":3}\n'
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with answering(path, head + b"%x\r\n%b\r\n" % (len(line), line)), ControlClient(path).watch(ACME) as events:
        assert next(events) == Lost(3)
        with pytest.raises(ControlError, match="in the middle of its answer"):
            next(events)


class answering:
    """A server that gives one client these bytes and hangs up."""

    def __init__(self, path, answer):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(1)
        self.answer = answer
        self.thread = threading.Thread(target=self.serve)

    def __enter__(self):
        self.thread.start()

    def __exit__(self, *_):
        self.thread.join()
        self.listener.close()

    def serve(self):
        client, _ = self.listener.accept()
        with client:
            client.recv(65_536)
            client.sendall(self.answer)


def test_a_proxy_that_does_not_answer(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        with pytest.raises(ControlError, match=r"did not answer in 0\.05 s"):
            ControlClient(path, timeout_s=0.05).status()
