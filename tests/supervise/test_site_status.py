"""What `lab status` tells of the tunnels of sites, from what agents reported and what a proxy answers."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from oxyctl.errors import OxyctlError
from oxyctl.plan.make import make_plan
from oxyctl.plan.steps import SiteOpen
from oxyctl.supervise.probes import _is_open
from oxyctl.supervise.site_status import tunnel_statuses
from oxyctl.supervise.status import node_status
from oxyctl.topology.file import loads
from tests.topology.test_sites import WAN

SITE = {"site": "berlin", "id": "site:berlin", "health": "degraded", "rtt_ms": 0.7}
CLIENT = {"site": None, "id": "tunnels.sock-1"}
OPEN = [{"node": "berlin", "end": end, "event": "open"} for end in ("site", "edge")]
BOTH = SiteOpen(ends=["site", "edge"], is_probed=True)


def health(word, **more):
    return {"node": "berlin", "end": "site", "event": "health", "health": word} | more


def program(*reports):
    """What the supervisor knows of the program that carries the tunnels."""
    return SimpleNamespace(reports=list(reports), is_running=True, pid=7)


def asked(answer, *reports):
    """The statuses, with a proxy that answers so."""

    async def scenario():
        async def serve(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        with tempfile.TemporaryDirectory() as directory:
            control = Path(directory, "control.sock")
            server = await asyncio.start_unix_server(serve, control)
            plan = make_plan(loads(WAN, "test"), Path(directory))
            nodes = [
                msgspec.structs.replace(node, control=str(control)) if node.control else node for node in plan.nodes
            ]
            try:
                return await tunnel_statuses(msgspec.structs.replace(plan, nodes=nodes), program(*reports))
            finally:
                server.close()
                await server.wait_closed()

    return {status.site: status for status in asyncio.run(scenario())}


def http(items):
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + json.dumps({"items": items}).encode()


def test_both_ends_have_their_say():
    found = asked(http([CLIENT, SITE]), *OPEN, health("down", rtt_ms=None), health("healthy", rtt_ms=1.5))
    berlin = found["berlin"]
    assert (berlin.health, berlin.rtt_ms) == ("healthy", 1.5)
    assert (berlin.proxy_health, berlin.proxy_rtt_ms) == ("degraded", 0.7)
    assert (found["lima"].health, found["lima"].proxy_health) == (None, None)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 500 oh\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n[", http([7])])
def test_a_proxy_that_does_not_answer_as_it_should_leaves_its_side_open(answer):
    assert asked(answer, health("healthy"))["berlin"].proxy_health is None


def test_a_lab_without_sites_asks_nobody(quick, plan):
    assert asyncio.run(tunnel_statuses(plan(quick), None)) == []


@pytest.mark.parametrize(
    ("reports", "wanted", "is_open"),
    [
        ([], BOTH, None),
        (OPEN[:1], BOTH, None),
        (OPEN, BOTH, None),
        ([*OPEN, health("down")], BOTH, None),
        ([*OPEN, health("healthy")], BOTH, True),
        (OPEN, SiteOpen(ends=["site", "edge"], is_probed=False), True),
        ([{**each, "node": "lima"} for each in OPEN], BOTH, None),
    ],
)
def test_when_a_site_is_ready(reports, wanted, is_open):
    assert _is_open("berlin", wanted, program(*reports)) is is_open


def test_an_end_that_cannot_be_opened_is_the_end_of_waiting():
    with pytest.raises(OxyctlError, match="no such device"):
        _is_open("berlin", BOTH, program({**OPEN[0], "event": "refused", "detail": "no such device"}))


@pytest.mark.parametrize(
    ("reports", "state", "detail"),
    [
        ([*OPEN, health("healthy")], "ready", None),
        ([*OPEN, health("healthy"), health("down")], "degraded", "tunnel down"),
        ([OPEN[0], {**OPEN[1], "event": "refused", "detail": "in use"}], "degraded", "tunnel (edge): in use"),
    ],
)
def test_a_node_is_as_its_tunnel_is(tmp_path, reports, state, detail):
    plan = make_plan(loads(WAN, "test"), tmp_path)
    node = next(node for node in plan.nodes if node.name == "berlin")
    found = node_status(node, program(*reports), is_ready=True)
    assert (found.state, found.detail) == (state, detail)
