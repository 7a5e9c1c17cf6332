"""The words of the control API about SSH sessions that end in the proxy."""

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
    public_key: str  # what its clients meet, whatever the origin
    fingerprint: str  # SHA256:...
    sshfp: str  # the data of a record in DNS
    previous: str | None = None  # before the last rotation
    user_ca: str  # what origins have to trust


class Recording(msgspec.Struct, kw_only=True, frozen=True):
    """The recording of one SSH channel."""

    name: str
    tenant: str
    channel_id: str
    size: int  # bytes
    is_encrypted: bool = False


class Screen(msgspec.Struct, frozen=True):
    """A line of a terminal that is watched: events are Unix time, code and data as in asciicast."""

    events: list[tuple[float, str, str]]
    size: tuple[int, int] | None = None  # columns and rows, at first
    lost: int = 0  # characters that were passed over, because the watcher did not keep up
    is_over: bool = False


class SSHView(Protocol):
    """What the control server needs of SSH sessions that end in the proxy; of a tenant, or (None) of all."""

    def host_keys(self, tenant: str | None) -> list[HostKey]: ...

    def rotate(self, tenant: str) -> HostKey:
        """ProxyError: the new key cannot be made."""
        ...

    def end_channel(self, channel_id: str, tenant: str | None, why: str) -> bool:
        """End it, or with a flow's id all of its channels. False: no such session lives."""
        ...

    def watch_channel(
        self, channel_id: str, tenant: str | None, watch: Callable[[Shown], None]
    ) -> Callable[[], None] | None:
        """What its terminal shows, until what is returned is called. None: no such session lives."""
        ...

    def recordings(self, identifier: str, tenant: str | None) -> list[Recording]:
        """Those of a channel, or of all channels of a flow."""
        ...

    def recording(self, name: str, tenant: str | None) -> Path | None:
        """The file of that name, if there is one."""
        ...


def is_channel(identifier: str) -> bool:
    """Whether it names a channel: a flow's id, a dot and a number."""
    flow, _, number = identifier.rpartition(".")
    return bool(flow) and number.isdigit()
