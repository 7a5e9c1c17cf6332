"""What h11, h2 and wsproto refuse in their own tests is refused by inspectors, which read much without them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proxy.inspect.stream import Side
from tests.inspect.http.h2_peer import REQUEST, Peer
from tests.inspect.http.talk import Talk, tls
from tests.inspect.http.test_h1 import GET
from tests.inspect.http.test_websocket import opened

INPUTS = json.loads((Path(__file__).parent / "library_inputs.json").read_text())
GOAWAY, RST_STREAM = 7, 3


def frame_types(data):
    """Of the HTTP/2 frames in `data`."""
    found = set()
    while data:
        found.add(data[3])
        data = data[9 + int.from_bytes(data[:3], "big") :]
    return found


@pytest.mark.parametrize("text", INPUTS["h11_requests"], ids=repr)
def test_a_request(text):
    talk = Talk()
    assert talk.say(text.encode("latin-1")) == b""
    assert talk.client.take()[:10] in (b"HTTP/1.1 4", b"HTTP/1.1 5")


@pytest.mark.parametrize("text", INPUTS["h11_responses"], ids=repr)
def test_a_response(text):
    talk = Talk()
    talk.say(GET)
    assert talk.answer(text.encode("latin-1")).startswith(b"HTTP/1.1 502 ")
    assert talk.records[0].fault_by == "origin"


@pytest.mark.parametrize("digits", INPUTS["h2_clients"], ids=range(len(INPUTS["h2_clients"])))
def test_a_client_of_http_2(digits):
    talk = Talk(tls("h2"), tls("h2"))
    talk.say(bytes.fromhex(digits))
    assert talk.finished is not None or frame_types(talk.client.take()) & {GOAWAY, RST_STREAM}


@pytest.mark.parametrize("digits", INPUTS["h2_origins"], ids=range(len(INPUTS["h2_origins"])))
def test_an_origin_of_http_2(digits):
    talk = Talk(tls("h2"), tls("h2"))
    client = Peer(is_client=True)
    talk.say(client.out() + client.headers(1, REQUEST))
    talk.handler.received(Side.ORIGIN, bytes.fromhex(digits))
    assert talk.origin.is_ended or talk.records[0].fault_by == "origin"


@pytest.mark.parametrize("case", INPUTS["websocket"], ids=lambda case: case["frames"])
@pytest.mark.parametrize("has_hook", [False, True], ids=["unread", "read"])
def test_frames_of_a_websockets_origin(case, has_hook):
    talk = opened(hooks={"websocket_message": lambda message: None} if has_hook else {})
    talk.answer(bytes.fromhex(case["frames"]))
    assert talk.records[0].fault_by == "origin"
    assert bytes(talk.origin.written)[6:8] == case["code"].to_bytes(2, "big")  # the proxy's own close frame
