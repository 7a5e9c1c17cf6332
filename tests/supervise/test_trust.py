"""The bundles of a running lab follow authorities that come late."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest

from oxyctl.plan.steps import Bundle, Namespace
from oxyctl.supervise.trust import Trust

PEM = "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n"


async def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@pytest.fixture
def place(tmp_path):
    """A bundle that waits for an authority."""
    (tmp_path / "bundle.pem").write_text("")
    bundle = Bundle(path=str(tmp_path / "bundle.pem"), authorities=[str(tmp_path / "ca.pem")])
    namespaces = [Namespace(node="laptop", sysctls={}, bundle=bundle.path), Namespace(node="web", sysctls={})]
    return tmp_path, SimpleNamespace(bundles=[bundle], namespaces=namespaces)


def test_a_node_waits_for_the_authority_that_it_is_to_trust(place):
    path, plan = place

    async def scenario():
        trust = Trust(lambda: plan)
        await trust.until_complete("web")
        waiting = asyncio.create_task(trust.until_complete("laptop"))
        await asyncio.sleep(0)
        assert not waiting.done()
        (path / "ca.pem").write_text(PEM.format("one"))
        await asyncio.wait_for(waiting, 5)
        assert (path / "bundle.pem").read_text() == PEM.format("one")

    asyncio.run(scenario())


def test_a_rotation_is_followed_and_nothing_runs_without_bundles(place):
    path, plan = place

    async def scenario():
        trust = Trust(lambda: plan)
        trust.follow()
        for name in ("one", "two"):
            (path / "new.pem").write_text(PEM.format(name))
            (path / "new.pem").rename(path / "ca.pem")
            await until(lambda name=name: PEM.format(name) in (path / "bundle.pem").read_text())
        plan.bundles = []
        await until(lambda: len(asyncio.all_tasks()) == 1)

    asyncio.run(scenario())
