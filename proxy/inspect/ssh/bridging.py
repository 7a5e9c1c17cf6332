"""What the client's side needs of the bridge."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Protocol

import asyncssh

from proxy.inspect.ssh.channels import Front
from proxy.inspect.ssh.view import SSHView


class Bridging(Protocol):
    """Implemented by `Bridge`."""

    view: SSHView
    loop: asyncio.AbstractEventLoop

    def client_met(self, conn: asyncssh.SSHServerConnection) -> None: ...

    def client_lost(self, error: Exception | None) -> None: ...

    def wants_to_be(self, user: str) -> None:
        """The user name at the origin."""
        ...

    def proved(self, identity: str, method: str) -> None:
        """Who is there, if the method succeeds."""
        ...

    def authenticated(self) -> None:
        """It has succeeded."""
        ...

    def session_front(self) -> Awaitable[Front]: ...

    def forward(self, host: str, port: int, orig_host: str, orig_port: int) -> Awaitable[Any]: ...

    def forward_unix(self, path: str) -> Awaitable[Any]: ...

    def listen(self, host: str, port: int) -> Awaitable[Any]: ...
