"""An inspector that cannot take what the proxy says ends the sessions concerned, and serves again when it can."""

from __future__ import annotations

import socket

import msgspec
import pytest

from proxy.inspect import inspector as module
from proxy.inspect.inspector import Inspector
from proxy.policy.carried import CarriedPolicies
from proxy.session.messages import Configure, Ended, Open, SessionFacts, TenantRules, parts
from tests.inspect.http.talk import FLOW
from tests.loops import running


class Channel:
    """Keeps what was sent to the proxy."""

    def __init__(self):
        self.sent = []

    def send(self, message):
        self.sent.append(message)


class Scene:
    """An inspector, and the client's ends of the sessions that it was given."""

    def __init__(self, loop):
        self.loop = loop
        self.inspector = loop.call(lambda: Inspector(loop.poller))
        self.inspector.channel = self.channel = Channel()
        self.ends = []

    def configure(self, policies=None):
        for part in parts(Configure({FLOW.tenant: TenantRules()}, policies=policies)):
            self.loop.call(lambda part=part: self.inspector.receive(part, []))

    def open(self, number, flow=FLOW):
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(2)]
        self.ends += [far for _, far in pairs]
        descriptors = [near.detach() for near, _ in pairs]
        self.loop.call(lambda: self.inspector.receive(Open(number, flow, "http"), descriptors))

    def close(self):
        self.loop.call(self.inspector.close)
        for end in self.ends:
            end.close()


@pytest.fixture
def scene():
    with running() as loop:
        made = Scene(loop)
        yield made
        made.close()


def test_a_session_of_a_tenant_that_is_not_known_ends_at_once(scene):
    scene.open(1)
    said = scene.channel.sent[-1]
    assert (type(said), said.session, said.reason) == (Ended, 1, "proxy_error")
    assert not scene.inspector.sessions
    assert scene.ends[0].recv(1) == b""


def test_policies_that_fail_to_load_let_no_session_begin_until_others_come(scene, monkeypatch):
    scene.configure()
    scene.open(1)
    assert 1 in scene.inspector.sessions
    with monkeypatch.context() as broken:
        broken.setattr(module, "SessionJudge", lambda policies: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            scene.configure(CarriedPolicies([], [FLOW.tenant]))
    scene.open(2)
    ended = [(each.session, each.reason) for each in scene.channel.sent if isinstance(each, Ended)]
    assert ended == [(2, "proxy_error")]
    assert 1 in scene.inspector.sessions
    scene.configure()
    scene.open(3)
    assert sorted(scene.inspector.sessions) == [1, 3]


def test_a_client_does_not_wait_for_all_sessions_of_another(scene):
    scene.configure()
    for number in range(1, 41):
        scene.open(number)
    scene.open(41, msgspec.structs.replace(FLOW, src="100.96.0.99"))
    for client in scene.ends[::2]:
        client.send(b"GET / HTTP/1.1\r\nHost: web.lab\r\n\r\n")
    begun = scene.loop.until(lambda: seen if len(seen := told(scene)) == 41 else None)
    assert begun.index(41) <= 1


def told(scene):
    """The sessions whose protocol was told to the proxy, in this order."""
    return [each.session for each in scene.channel.sent if isinstance(each, SessionFacts)]
