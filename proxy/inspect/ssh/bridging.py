"""The interfaces of a bridge to its parts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Protocol

from proxy.inspect.ssh.channels import Front, Through
from proxy.inspect.ssh.view import SSHView

if TYPE_CHECKING:
    from proxy.inspect.ssh.ruling import Ruled


class Opening(Protocol):
    """The bridge, as channels see it. Implemented by `Bridge`."""

    view: SSHView
    client: Any
    has_agent: bool

    def ruled(self) -> Ruled:
        """A new channel, to be decided and recorded."""
        ...

    def reached(self) -> Awaitable[Any]:
        """Wait for the connection to the origin, and return it. asyncssh.ChannelOpenError: there will be none."""
        ...

    def take_place(self) -> None:
        """Count a new channel. asyncssh.ChannelOpenError: there are too many."""
        ...

    def leave_place(self) -> None: ...

    def agent_is_there(self) -> None:
        """Note that the client's agent is available."""
        ...


class Bridging(Protocol):
    """The bridge, as the two connections see it. Implemented by `Bridge`."""

    view: SSHView
    loop: asyncio.AbstractEventLoop

    def client_lost(self, error: Exception | None) -> None: ...

    def client_met(self, conn: Any) -> None: ...

    def wants_to_be(self, user: str) -> None:
        """Note the requested user name at the origin."""
        ...

    def proved(self, identity: str, method: str) -> None:
        """Note the identity that holds if the method succeeds."""
        ...

    def authenticated(self) -> Awaitable[None]:
        """The method has succeeded: wait until the client may be told so, or the session has ended."""
        ...

    def banner(self, text: str, language: str) -> None:
        """Take the origin's login banner."""
        ...

    def session_front(self) -> Awaitable[Front]: ...

    def forward(self, host: str, port: int, orig_host: str, orig_port: int) -> Awaitable[Through]: ...

    def forward_unix(self, path: str) -> Awaitable[Through]: ...

    def listen(self, host: str, port: int) -> Awaitable[Any]: ...

    def listen_unix(self, path: str) -> Awaitable[Any]: ...

    def agent_wanted(self) -> Awaitable[Through]:
        """The origin opens a channel to the client's agent."""
        ...

    def x11_wanted(self, host: str, port: int) -> Awaitable[Through]:
        """The origin opens a channel to the client's X11 display."""
        ...
