"""What hooks are asked about an SSH session."""

from __future__ import annotations

import msgspec


class Login(msgspec.Struct, frozen=True):
    """Somebody has proved who it is (`ssh_auth`), or does so by `responses` that the application judges: may it be? The
    fields of `proxy.hooks.SshAuth` but for the flow."""

    username: str
    method: str
    identity: str | None = None
    responses: tuple[str, ...] = ()


class ChannelRequest(msgspec.Struct, frozen=True):
    """A channel is wanted (`ssh_channel`): the fields of `proxy.hooks.SshChannel` but for the flow."""

    username: str
    kind: str  # session, direct-tcpip, ...
    target: tuple[str, int] | None = None


class ExecRequest(msgspec.Struct, frozen=True):
    """A program is wanted in it (`ssh_exec`): the fields of `proxy.hooks.SshExec`."""

    channel: ChannelRequest
    kind: str  # exec, subsystem, shell
    command: str = ""
