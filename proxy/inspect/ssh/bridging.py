"""What the parts of a bridge need of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Protocol

from proxy.inspect.ssh.channels import Front, Through
from proxy.inspect.ssh.view import SSHView

if TYPE_CHECKING:
    from proxy.inspect.ssh.ruling import Ruled


class Opening(Protocol):
    """What channels need. Implemented by `Bridge`."""

    view: SSHView
    client: Any
    has_agent: bool

    def ruled(self) -> Ruled:
        """One more channel."""
        ...

    def reached(self) -> Awaitable[Any]:
        """The connection to the origin, once it is there; asyncssh.ChannelOpenError when it never will be."""
        ...

    def take_place(self) -> None:
        """asyncssh.ChannelOpenError when there are too many channels."""
        ...

    def leave_place(self) -> None: ...

    def agent_is_there(self) -> None:
        """The client's agent may be used."""
        ...


class Bridging(Protocol):
    """What the two connections need. Implemented by `Bridge`."""

    view: SSHView
    loop: asyncio.AbstractEventLoop

    def client_lost(self, error: Exception | None) -> None: ...

    def client_met(self, conn: Any) -> None: ...

    def wants_to_be(self, user: str) -> None:
        """The user name at the origin."""
        ...

    def proved(self, identity: str, method: str) -> None:
        """Who is there, if the method succeeds."""
        ...

    def authenticated(self) -> Awaitable[None]:
        """It has succeeded: returns when the client may be told, or the session is over."""
        ...

    def banner(self, text: str, language: str) -> None:
        """The origin shows it to whoever logs in."""
        ...

    def session_front(self) -> Awaitable[Front]: ...

    def forward(self, host: str, port: int, orig_host: str, orig_port: int) -> Awaitable[Through]: ...

    def forward_unix(self, path: str) -> Awaitable[Through]: ...

    def listen(self, host: str, port: int) -> Awaitable[Any]: ...

    def listen_unix(self, path: str) -> Awaitable[Any]: ...

    def agent_wanted(self) -> Awaitable[Through]:
        """The origin wants to speak with the client's agent."""
        ...

    def x11_wanted(self, host: str, port: int) -> Awaitable[Through]:
        """The origin wants to open a window."""
        ...
