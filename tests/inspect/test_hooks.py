"""Hooks about what is read: asked in the proxy, whichever process reads, with the flow and its extension."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import msgspec
import pytest

from proxy.flow.context import FlowContext
from proxy.flow.record import Totals
from proxy.hooks.asked import argument
from tests.inspect.test_http_sessions import answer, curl
from tests.inspect.world import ReadingStage
from tests.netns import needs_root
from tests.records import make_record
from tests.running import until

APPLICATION = """
import json
from pathlib import Path
from proxy.hooks import Hooks, Verdict, deny


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
        if request.path == "/bug":
            raise ValueError("a bug")

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


@pytest.fixture
def laptop(stage):
    yield stage.laptop()
    stage.after_test()


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
def test_a_handshake_is_denied(stage, laptop):
    port = stage.serve(answer, stage.server_context("pinned.lab"))
    assert curl(stage, laptop, port, name="pinned.lab").returncode == 35  # the handshake failed
    record = stage.record(port)
    assert (record.close_reason, record.decisions[-1].reason) == ("denied", "not this name")


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
