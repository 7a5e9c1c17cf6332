"""All services of a configuration: started, reported and stopped together."""

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
    """A service that was started, and its node."""

    node: str
    kind: str
    service: Service

    def report(self) -> dict[str, Any]:
        """Its entry in the report."""
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
        self._nodes: dict[str, NodeConfig] = {}

    async def start(self, config: Config) -> None:
        """Start all services of all nodes. If one fails, stop the others and raise ServiceError."""
        _make_private(Path(config.state))
        try:
            for node in config.nodes:
                await self._start_node(node, config)
        except BaseException:
            await self.stop()
            raise

    async def _start_node(self, node: NodeConfig, config: Config) -> None:
        self._nodes[node.name] = node
        root = None if node.root is None else Path(node.root)
        host = Host(
            name=node.name,
            addresses=node.addresses,
            state=Path(config.state),
            netns=node.netns,
            utsns=node.utsns,
            mntns=node.mntns,
            environment=node.env,
            root=root,
            hosts=None if config.hosts is None else Path(config.hosts),
            user_cas=[*map(Path, config.user_cas)],
        )
        for kind, port in node.services.items():
            try:
                service = await SERVICES[kind](host, port)
            except (OSError, ServiceError) as error:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                raise ServiceError(f"{node.name}: {kind} on port {port}: {reason}") from error
            self.running.append(Running(node.name, kind, service))

    async def change(self, config: Config) -> dict[str, str]:
        """Serve exactly the nodes of `config`, without touching those that stay. Returns the failures by node."""
        configs = {node.name: node for node in config.nodes}
        removed = [name for name, node in self._nodes.items() if not _is_served_alike(node, configs.get(name))]
        for name in removed:
            await self._stop_node(name)
        problems = {}
        for name in [name for name in configs if name not in self._nodes]:
            try:
                await self._start_node(configs[name], config)
            except ServiceError as error:
                problems[name] = str(error)
                await self._stop_node(name)
        return problems

    async def _stop_node(self, name: str) -> None:
        own = [running for running in self.running if running.node == name]
        self.running = [running for running in self.running if running.node != name]
        self._nodes.pop(name, None)
        await _stop(own)

    def report(self) -> dict[str, Any]:
        """Report which service listens where. The lab takes this line as the sign that its origins are ready."""
        return {"ready": True, "services": [running.report() for running in self.running]}

    async def stop(self) -> None:
        """Stop all services, without waiting for one that hangs."""
        running, self.running = self.running, []
        self._nodes = {}
        await _stop(running)


def _is_served_alike(node: NodeConfig, other: NodeConfig | None) -> bool:
    """Whether a change between the two leaves the services as they are: in a namespace they listen on all addresses."""
    if other is None or node.netns is None:
        return node == other
    return msgspec.structs.replace(node, addresses=other.addresses) == other


async def _stop(services: list[Running]) -> None:
    stops = [asyncio.create_task(running.service.stop()) for running in services]
    if stops:
        await asyncio.wait(stops, timeout=STOP_TIMEOUT_S)


def _make_private(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ServiceError(f"{directory}: {error.strerror}") from error
