"""Listening for SSH, with host keys that last as long as the lab's state. Every client is admitted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import asyncssh

from oxyctl.services.host import Host
from oxyctl.services.service import log
from oxyctl.services.ssh.authority import host_key
from oxyctl.services.ssh.program import Program
from oxyctl.services.ssh.session import Session

WINDOW_BYTES = 2 << 20  # as in OpenSSH
LOGIN_TIMEOUT_S = 30
SSH_PORT = 22


class Server(asyncssh.SSHServer):
    """One connection. It requires no authentication, so any attempt succeeds; forwarding is refused."""

    def __init__(self, service: SshService) -> None:
        self._service = service
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._service.open.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._service.open.discard(self._connection)

    def begin_auth(self, username: str) -> bool:
        log.debug("%s ssh: %s connected", self._service.host.name, username)
        return False

    def session_requested(self) -> Session:
        return Session(self._service.host, self._service.programs, self._service.root)


class SshService:
    """Listening sockets, their connections, and the programs of their sessions."""

    detail: str | None = None

    def __init__(self, host: Host, port: int) -> None:
        self.host = host
        self._sockets = host.listen(port)
        self.root = host.open_root()  # for file transfers, which run no program in the node
        self.port: int = self._sockets[0].getsockname()[1]
        self.open: set[asyncssh.SSHServerConnection] = set()
        self.programs: set[Program] = set()
        self._acceptors: list[asyncssh.SSHAcceptor] = []

    async def start(self, key: tuple[asyncssh.SSHKey, asyncssh.SSHCertificate]) -> None:
        """Start to listen."""
        for sock in self._sockets:
            acceptor = await asyncssh.listen(
                sock=sock,
                server_factory=lambda: Server(self),
                server_host_keys=[key],
                encoding=None,
                line_editor=False,
                agent_forwarding=False,
                window=WINDOW_BYTES,
                login_timeout=LOGIN_TIMEOUT_S,
            )
            self._acceptors.append(acceptor)

    async def stop(self) -> None:
        """Stop listening, abort open connections, end their programs."""
        for acceptor in self._acceptors:
            acceptor.close()
        for sock in self._sockets:
            sock.close()
        for connection in list(self.open):
            connection.abort()
        if self.root is not None:
            os.close(self.root)
        await asyncio.gather(*(program.kill() for program in list(self.programs)))


async def start(host: Host, port: int) -> SshService:
    """An SSH server on `port`; its host key is in `state`, and in the file known_hosts there for its clients."""
    key, certificate = host_key(host)
    service = SshService(host, port)
    await service.start((key, certificate))
    _write_known_hosts(host.state / "known_hosts", [host.name, *host.addresses], service.port, key)
    return service


def _write_known_hosts(path: Path, names: Sequence[str], port: int, key: asyncssh.SSHKey) -> None:
    """Replace the line of these names in a known_hosts file (sshd(8))."""
    pattern = ",".join(name if port == SSH_PORT else f"[{name}]:{port}" for name in names)
    lines = path.read_text().splitlines() if path.exists() else []
    lines = [line for line in lines if line.split(" ", 1)[0] != pattern]
    lines.append(f"{pattern} {key.export_public_key().decode().strip()}")
    path.write_text("\n".join(lines) + "\n")
