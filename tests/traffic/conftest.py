"""The services of a node on loopback, small UDP servers with bad habits, and the generator as a program."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from oxyctl.traffic.client import GeneratorProcess
from oxyctl.traffic.config import AnyTraffic
from oxyctl.traffic.tally import Report
from tests.services.origin import Origin, node


@pytest.fixture(scope="session")
def origin(tmp_path_factory):
    """http, https, echo and sink."""
    origin = Origin(tmp_path_factory.mktemp("origin"), node("http", "https", "echo", "sink", "reset"))
    yield origin
    assert origin.stop() == 0


def traffic(kind: str, target: str, **options: object) -> AnyTraffic:
    """A request, as it comes from the command line."""
    return msgspec.convert({"kind": kind, "target": target, **options}, AnyTraffic)


@pytest.fixture(scope="session")
def generate() -> Callable[..., Report]:
    """The report of one request to the real program."""

    async def run(asked: AnyTraffic) -> Report:
        async with GeneratorProcess() as generator:
            return await generator.run(asked)

    def call(kind: str, target: str, **options: object) -> Report:
        return asyncio.run(run(traffic(kind, target, **options)))

    return call


class Responder(asyncio.DatagramProtocol):
    """Answers each datagram with those that `answers` makes of it and of its number."""

    def __init__(self, answers: Callable[[bytes, int], list[bytes]]) -> None:
        self.answers, self.count = answers, 0

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        for answer in self.answers(data, self.count):
            self.transport.sendto(answer, addr)
        self.count += 1


@pytest.fixture
def generate_to() -> Callable[..., Report]:
    """The report of one request to a UDP server on loopback, which `answers` makes."""

    async def run(kind: str, answers, options) -> Report:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: Responder(answers), local_addr=("127.0.0.1", 0))
        port = transport.get_extra_info("sockname")[1]
        try:
            async with GeneratorProcess() as generator:
                return await generator.run(traffic(kind, f"127.0.0.1:{port}", **options))
        finally:
            transport.close()

    return lambda kind, answers, **options: asyncio.run(run(kind, answers, options))
