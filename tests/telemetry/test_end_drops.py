"""Drops of tunnels' ends beside the proxy: asked for, labelled, and given up when nobody answers."""

from __future__ import annotations

import asyncio
import json

import pytest

from proxy.settings.sites import Site
from proxy.telemetry import end_drops
from proxy.telemetry.metrics import render
from tests.telemetry.test_metrics import status

SITES = [
    {"node": "berlin", "end": "edge", "drops": {"gre_version": 3}},
    {"node": "berlin", "end": "site", "drops": {"truncated": 1}},
    {"node": "lima", "end": "site", "drops": {"truncated": 9}},
]


def site(path, name="berlin"):
    return Site(name=name, tenant="acme", peers=["192.0.2.1:6080"], prefixes=["10.1.0.0/16"], status=str(path))


def asked(path, answer, *names):
    async def run():
        async def serve(reader, writer):
            if answer is None:
                await reader.read()  # and nothing is said until the other side has given up
            else:
                writer.write(answer)
            writer.close()

        server = await asyncio.start_unix_server(serve, str(path))
        async with server:
            return await end_drops.end_drops([site(path, name) for name in names])

    return asyncio.run(run())


def test_drops_of_both_ends_of_the_sites_that_are_ours(tmp_path):
    found = asked(tmp_path / "s.sock", json.dumps({"tunnels": SITES, "drops": {}}).encode(), "berlin", "oslo")
    assert found == {
        ("acme", "site:berlin", "edge", "gre_version"): 3,
        ("acme", "site:berlin", "site", "truncated"): 1,
    }
    text = render(status(), (), found)
    assert 'oxy_tunnel_end_drops_total{tenant="acme",tunnel="site:berlin",end="edge",reason="gre_version"} 3\n' in text
    assert "oxy_tunnel_end_drops_total" not in render(status())


@pytest.mark.parametrize("answer", [b"", b"{", b"[]", b'{"tunnels": 7}', b'{"tunnels": [{"drops": {"a": "b"}}]}'])
def test_nonsense_is_nothing(tmp_path, answer):
    assert asked(tmp_path / "s.sock", answer, "berlin") == {}


def test_who_is_silent_or_away_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(end_drops, "ANSWER_TIMEOUT_S", 0.05)
    assert asked(tmp_path / "s.sock", None, "berlin") == {}
    assert asyncio.run(end_drops.end_drops([site(tmp_path / "nowhere" / "s.sock")])) == {}
