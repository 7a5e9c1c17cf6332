"""The interfaces of a bridge to its parts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Protocol

from proxy.inspect.ssh.channels import ForwardedChannel, Front
from proxy.inspect.ssh.view import SSHView

if TYPE_CHECKING:
    from proxy.inspect.ssh.ruling import ChannelState


class ChannelContext(Protocol):
    """The bridge, as channels see it. Implemented by `Bridge`."""

    view: SSHView
    client: Any
    has_agent: bool

    def new_channel(self) -> ChannelState:
        """A new channel, to be decided and recorded."""
        ...

    def origin_connection(self) -> Awaitable[Any]:
        """Wait for the connection to the origin, and return it. asyncssh.ChannelOpenError: there will be none."""
        ...

    def reserve_channel(self) -> None:
        """Count a new channel. asyncssh.ChannelOpenError: there are too many."""
        ...

    def release_channel(self) -> None: ...

    def agent_available(self) -> None:
        """Note that the client's agent is available."""
        ...


class ConnectionContext(Protocol):
    """The bridge, as the two connections see it. Implemented by `Bridge`."""

    view: SSHView
    loop: asyncio.AbstractEventLoop

    def client_lost(self, error: Exception | None) -> None: ...

    def client_connected(self, conn: Any) -> None: ...

    def user_requested(self, user: str) -> None:
        """Note the requested user name at the origin."""
        ...

    def identified(self, identity: str, method: str) -> None:
        """Note the identity that holds if the method succeeds."""
        ...

    def authenticated(self) -> Awaitable[None]:
        """The method has succeeded: wait until the client may be informed, or the session has ended."""
        ...

    def banner(self, text: str, language: str) -> None:
        """Take the origin's login banner."""
        ...

    def session_front(self) -> Awaitable[Front]: ...

    def forward(self, host: str, port: int, orig_host: str, orig_port: int) -> Awaitable[ForwardedChannel]: ...

    def forward_unix(self, path: str) -> Awaitable[ForwardedChannel]: ...

    def listen(self, host: str, port: int) -> Awaitable[Any]: ...

    def listen_unix(self, path: str) -> Awaitable[Any]: ...

    def open_agent(self) -> Awaitable[ForwardedChannel]:
        """The origin opens a channel to the client's agent."""
        ...

    def open_x11(self, host: str, port: int) -> Awaitable[ForwardedChannel]:
        """The origin opens a channel to the client's X11 display."""
        ...
