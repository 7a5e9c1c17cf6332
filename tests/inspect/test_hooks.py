"""Hooks about what is read: asked in the proxy, whichever process reads, with the flow and its extension."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import h11
import msgspec
import pytest

from proxy.flow.context import FlowContext
from proxy.flow.record import Totals
from proxy.hooks.arguments import Bodies, argument
from tests.inspect.test_http_programs import SPEAKER, websocket
from tests.inspect.test_http_sessions import answer, curl
from tests.inspect.world import ReadingStage, run
from tests.netns import needs_root
from tests.records import make_record
from tests.running import ORIGIN, until

APPLICATION = """
import json
from pathlib import Path
from proxy.hooks import Hooks, HttpEffects, Verdict, deny


class Mine(Hooks):
    diary = Path(__file__).with_name("diary")

    def say(self, *words):
        with self.diary.open("a") as file:
            file.write(json.dumps(words) + "\\n")

    async def tunnel_open(self, context):
        context.extension = ["of the tunnel"]

    async def protocol_detected(self, flow):
        self.say("detected", flow.detected_protocol)

    async def tls_client_hello(self, hello):
        self.say("hello", hello.sni, hello.alpn, hello.version, hello.flow.extension)
        return "not this name" if hello.sni == "pinned.lab" else None

    async def http_request(self, request):
        self.say("request", request.method, request.host, request.path, request.version, request.flow.extension)
        if dict(request.headers).get("x-secret"):
            return deny("no secrets")
        if request.path == "/body":
            return Verdict(http=HttpEffects(reads=("request", "response")))
        if request.path == "/bug":
            return 7

    async def http_body(self, part):
        part.state = (part.state or 0) + len(part.data)
        if b"forbidden" in part.data:
            return "a word that must not pass"
        if part.is_last:
            self.say("body", part.response is None, part.state, part.request.path)
        return part.data.swapcase()

    async def websocket_message(self, message):
        self.say("message", message.sender, message.kind, len(message.data))

    async def http_response(self, response):
        self.say("response", response.status, response.request.path)
"""


class AskingStage(ReadingStage):
    def __init__(self, directory, **options):
        Path(directory, "mine.py").write_text(APPLICATION)
        super().__init__(directory, **options)

    def start(self):
        self.configuration += "hooks: ./mine.py:Mine\n"
        super().start()

    def said(self, kind):
        lines = [json.loads(line) for line in Path(self.directory, "diary").read_text().splitlines()]
        return [line[1:] for line in lines if line[0] == kind]


@pytest.fixture(scope="module", params=[0, 1], ids=["in the proxy", "in a process"])
def stage(request):
    with tempfile.TemporaryDirectory() as directory:
        stage = AskingStage(directory, level="http", inspectors=request.param)
        try:
            yield stage
        finally:
            stage.close()


def echo(sock):
    """An origin that answers one request with its body."""
    origin, body = h11.Connection(h11.SERVER), b""
    while not isinstance(event := origin.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            origin.receive_data(sock.recv(65_536))
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.ConnectionClosed):
            return
    head = h11.Response(status_code=200, headers=[("Content-Length", str(len(body)))])
    sock.sendall(b"".join(origin.send(each) for each in (head, h11.Data(data=body), h11.EndOfMessage())))


real = [
    pytest.mark.netns,
    needs_root,
    pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl"),
]


def marked(test):
    for mark in real:
        test = mark(test)
    return test


@marked
def test_every_moment_is_told_with_the_extension_of_the_tunnel(stage, laptop):
    port = stage.serve(answer, stage.server_context(alpn=("http/1.1",)))
    done = curl(stage, laptop, port)
    assert done.stdout.endswith("1.1 200"), done.stderr
    kept = ["of the tunnel"]
    assert stage.said("hello")[-1] == ["wiki.lab", ["h2", "http/1.1"], "TLSv1.3", kept]
    assert stage.said("request")[-1] == ["GET", f"wiki.lab:{port}", "/page", "1.1", kept]
    assert stage.said("response")[-1] == [200, "/page"]
    until(lambda: ["tls"] in stage.said("detected"))


@marked
def test_a_request_is_denied_with_a_page(stage, laptop):
    port = stage.serve(answer, stage.server_context(alpn=("http/1.1",)))
    done = curl(stage, laptop, port, "-H", "X-Secret: 1")
    assert done.stdout.endswith(" 403"), (done.stdout, done.stderr)
    assert "no secrets" in done.stdout


@marked
def test_a_hook_that_fails_is_a_502(stage, laptop):
    port = stage.serve(answer, stage.server_context(alpn=("http/1.1",)))
    done = curl(stage, laptop, port, path="/bug")
    assert done.stdout.endswith(" 502"), (done.stdout, done.stderr)


@marked
def test_bodies_pass_through_a_hook_in_parts(stage, laptop, tmp_path):
    port = stage.serve(echo, stage.server_context(alpn=("http/1.1",)))
    (tmp_path / "up").write_bytes(b"x" * 300_000)
    done = curl(stage, laptop, port, "--data-binary", f"@{tmp_path}/up", path="/body")
    assert done.stdout.endswith(" 200"), (done.stdout[-200:], done.stderr)
    assert done.stdout.count("x") == 300_000  # turned round on the way up, and again on the way down
    until(lambda: [True, 300_000, "/body"] in stage.said("body") and [False, 300_000, "/body"] in stage.said("body"))
    denied = curl(stage, laptop, port, "-d", "a forbidden word", path="/body")
    assert denied.stdout.endswith(" 403"), (denied.stdout, denied.stderr)


@marked
def test_a_message_of_a_megabyte_is_shown_whole(stage, laptop):
    port = stage.serve(websocket, stage.server_context(alpn=("http/1.1",)))
    done = run(laptop, sys.executable, "-c", SPEAKER, ORIGIN[4], str(port), stage.client_trust)
    assert done.stdout == "1000\n", done.stderr
    sides = [[side, kind, size] for kind, size in (("text", 4), ("binary", 1 << 20)) for side in ("client", "origin")]
    assert stage.said("message") == sides


@marked
def test_a_handshake_is_denied(stage, laptop):
    port = stage.serve(answer, stage.server_context("pinned.lab"))
    assert curl(stage, laptop, port, name="pinned.lab").returncode == 35  # the handshake failed
    record = stage.record(port)
    assert (record.close_reason, record.decisions[-1].reason) == ("denied", "not this name")


def test_a_body_is_one_object_for_the_hook():
    request = {"version": "1.1", "method": "PUT", "scheme": "https", "host": "a", "path": "/"}
    bodies = Bodies()
    first = bodies.part({"body": "1.client", "request": request, "data": b"a", "is_last": False}, FLOW)
    first.state = 7
    other = {"body": "1.origin", "request": dict(request), "status": 200, "headers": [], "data": b"", "is_last": True}
    assert bodies.part(other, FLOW).response.status == 200
    last = bodies.part({"body": "1.client", "data": b"b", "is_last": True}, FLOW)
    assert (last.state, last.data, last.is_last, last.request.method) == (7, b"b", True, "PUT")
    for told in ({"body": "1.client", "data": b"c", "is_last": True}, {"body": 7, "data": b"", "is_last": True}):
        with pytest.raises(msgspec.ValidationError):
            bodies.part(told, FLOW)
    bodies.part({"body": "2.client", "request": dict(request), "data": b"a", "is_last": False}, FLOW)
    bodies.forget({"body": "2.client"})
    with pytest.raises(msgspec.ValidationError):
        bodies.part({"body": "2.client", "data": b"c", "is_last": True}, FLOW)


FLOW = FlowContext(**msgspec.structs.asdict(make_record(total=Totals())))


def test_arguments_are_made_of_what_an_inspector_tells():
    request = {"version": "1.1", "method": "GET", "scheme": "https", "host": "a", "path": "/", "headers": [["a", "b"]]}
    hello = argument("tls_client_hello", {"sni": "a", "alpn": ["h2"], "version": "TLSv1.3", "ja4": None}, FLOW)
    assert (hello.flow, hello.alpn) == (FLOW, ["h2"])
    made = argument("http_request", dict(request), FLOW)
    assert (made.flow, made.headers) == (FLOW, [("a", "b")])
    message = {"request": dict(request), "sender": "client", "kind": "text", "data": b"x"}
    assert argument("websocket_message", message, FLOW).request.host == "a"
    assert argument("http_response", {"request": dict(request), "status": 200, "headers": []}, FLOW).status == 200


@pytest.mark.parametrize(
    "told", [{"sni": 7}, {"sni": "a", "flow": "mine"}, {"version": "TLSv1.3", "more": 1}, {"alpn": "h2"}]
)
def test_what_an_inspector_must_not_tell_is_refused(told):
    with pytest.raises(msgspec.ValidationError):
        argument("tls_client_hello", told, FLOW)
