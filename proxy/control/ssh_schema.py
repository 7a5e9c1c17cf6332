"""The structures of the control API about SSH sessions that end in the proxy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from proxy.session.messages import Shown


class HostKey(msgspec.Struct, kw_only=True, frozen=True):
    """The SSH keys of one tenant. Public keys are as in `*.pub`."""

    tenant: str
    public_key: str  # that clients see for every origin
    fingerprint: str  # SHA256:...
    sshfp: str  # the data of an SSHFP record
    previous: str | None = None  # before the last rotation
    user_ca: str  # that origins must trust


class Recording(msgspec.Struct, kw_only=True, frozen=True):
    """The recording of one SSH channel."""

    name: str
    tenant: str
    channel_id: str
    size: int  # bytes
    is_encrypted: bool = False


class Screen(msgspec.Struct, frozen=True):
    """A line of a terminal watch: events are Unix time, code and data as in asciicast."""

    events: list[tuple[float, str, str]]
    size: tuple[int, int] | None = None  # columns and rows, at first
    lost: int = 0  # characters skipped, because the watcher did not keep up
    is_over: bool = False


class SSHView(Protocol):
    """The part of SSH inspection that the control server uses, for one tenant or (None) for all."""

    def host_keys(self, tenant: str | None) -> list[HostKey]: ...

    def rotate(self, tenant: str) -> HostKey:
        """Create a new host key. ProxyError: it cannot be created."""
        ...

    def end_channel(self, channel_id: str, tenant: str | None, why: str) -> bool:
        """End a channel, or with a flow's id all its channels. False: no such session is live."""
        ...

    def watch_channel(
        self, channel_id: str, tenant: str | None, watch: Callable[[Shown], None]
    ) -> Callable[[], None] | None:
        """Watch a terminal. Returns the function that ends the watch; None: no such session is live."""
        ...

    def recordings(self, identifier: str, tenant: str | None) -> list[Recording]:
        """The recordings of a channel, or of all channels of a flow."""
        ...

    def recording(self, name: str, tenant: str | None) -> Path | None:
        """The file of that name, if it exists."""
        ...


def is_channel(identifier: str) -> bool:
    """Whether the text is the id of a channel: a flow's id, a dot and a number."""
    flow, _, number = identifier.rpartition(".")
    return bool(flow) and number.isdigit()
