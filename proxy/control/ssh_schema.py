"""The structures of the control API for SSH sessions that are terminated in the proxy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from proxy.session.messages import TerminalOutput


class HostKey(msgspec.Struct, kw_only=True, frozen=True):
    """The SSH keys of one tenant. Public keys are as in `*.pub`."""

    tenant: str
    public_key: str  # shown to clients for every origin
    fingerprint: str  # SHA256:...
    sshfp: str  # the data of an SSHFP record
    previous: str | None = None  # before the last rotation
    user_ca: str  # to be trusted by origins


class Recording(msgspec.Struct, kw_only=True, frozen=True):
    """The recording of one SSH channel."""

    name: str
    tenant: str
    channel_id: str
    size: int  # bytes
    is_encrypted: bool = False


class Screen(msgspec.Struct, frozen=True):
    """A line of a terminal watch. Times of events are Unix time; codes and data are as in asciicast."""

    events: list[tuple[float, str, str]]
    size: tuple[int, int] | None = None  # columns and rows, at first
    lost: int = 0  # characters skipped, as the watcher did not keep up
    is_over: bool = False


class SSHView(Protocol):
    """SSH inspection, as used by the control server, for one tenant or (None) for all."""

    def host_keys(self, tenant: str | None) -> list[HostKey]: ...

    def rotate(self, tenant: str) -> HostKey:
        """Create a new host key. Raises ProxyError if that is impossible."""
        ...

    def end_channel(self, channel_id: str, tenant: str | None, why: str) -> bool:
        """End a channel, or with a flow's id all its channels. Returns False if no such session is live."""
        ...

    def watch_channel(
        self, channel_id: str, tenant: str | None, watch: Callable[[TerminalOutput], None]
    ) -> Callable[[], None] | None:
        """Watch a terminal. Returns a function that ends the watch, or None if no such session is live."""
        ...

    def recordings(self, identifier: str, tenant: str | None) -> list[Recording]:
        """The recordings of a channel, or of all channels of a flow."""
        ...

    def recording(self, name: str, tenant: str | None) -> Path | None:
        """The file with this name, or None."""
        ...


def is_channel(identifier: str) -> bool:
    """Whether the text is the id of a channel: a flow's id, a dot and a number."""
    flow, _, number = identifier.rpartition(".")
    return bool(flow) and number.isdigit()
