"""All services of a configuration: started together, reported in one line, stopped together."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from oxyctl.services.config import Config, NodeConfig
from oxyctl.services.host import Host
from oxyctl.services.registry import SERVICES
from oxyctl.services.service import Service, ServiceError

STOP_TIMEOUT_S = 3


class Running(msgspec.Struct, frozen=True):
    """A service that was started, and whose it is."""

    node: str
    kind: str
    service: Service

    def report(self) -> dict[str, Any]:
        """As the report tells it."""
        state = "listening" if self.service.detail is None else "unavailable"
        return {
            "node": self.node,
            "service": self.kind,
            "port": self.service.port,
            "state": state,
            "detail": self.service.detail,
        }


class Fleet:
    """The running services."""

    def __init__(self) -> None:
        self.running: list[Running] = []

    async def start(self, config: Config) -> None:
        """Start every service of every node; when one fails, stop those that run and raise ServiceError."""
        state = Path(config.state)
        _make_private(state)
        try:
            for node in config.nodes:
                await self._start_node(node, state)
        except BaseException:
            await self.stop()
            raise

    async def _start_node(self, node: NodeConfig, state: Path) -> None:
        root = None if node.root is None else Path(node.root)
        host = Host(
            name=node.name, addresses=node.addresses, state=state, netns=node.netns, utsns=node.utsns, root=root
        )
        for kind, port in node.services.items():
            try:
                service = await SERVICES[kind](host, port)
            except (OSError, ServiceError) as error:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                raise ServiceError(f"{node.name}: {kind} on port {port}: {reason}") from error
            self.running.append(Running(node.name, kind, service))

    def report(self) -> dict[str, Any]:
        """What listens where: the line that tells the lab that its origins are ready."""
        return {"ready": True, "services": [running.report() for running in self.running]}

    async def stop(self) -> None:
        """Stop them all, without waiting for any that hangs."""
        stops = [asyncio.create_task(running.service.stop()) for running in self.running]
        self.running = []
        if stops:
            await asyncio.wait(stops, timeout=STOP_TIMEOUT_S)


def _make_private(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ServiceError(f"{directory}: {error.strerror}") from error
