"""What the broker gives to inspectors, and what it does not."""

from __future__ import annotations

import pytest

from proxy.session.messages import DialRequest
from proxy.stream.broker import Broker
from tests.flows import make_flow, make_tunnel


@pytest.mark.parametrize("host", [None, "192.0.2.7"])
def test_what_leaves_by_a_tunnel_never_leaves_by_the_host(host):
    flow, answers = make_flow(), []
    flow.egress = make_tunnel(flow.tenant)
    broker = Broker.__new__(Broker)  # it has nothing to connect with
    broker.dial(flow, DialRequest(1, 1, host, 443), lambda sock, why: answers.append((sock, why)))
    assert answers == [(None, "a flow into a tunnel has a single connection")]
