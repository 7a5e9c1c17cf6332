"""The arguments of hooks about SSH sessions."""

from __future__ import annotations

import msgspec


class Login(msgspec.Struct, frozen=True):
    """A user is authenticated, or gave `responses` for the hook to judge (`ssh_auth`): the fields of
    `proxy.hooks.SshAuth` except the flow."""

    username: str
    method: str
    identity: str | None = None
    responses: tuple[str, ...] = ()


class ChannelRequest(msgspec.Struct, frozen=True):
    """A request for a channel (`ssh_channel`): the fields of `proxy.hooks.SshChannel` except the flow."""

    username: str
    kind: str  # session, direct-tcpip, ...
    target: tuple[str, int] | None = None


class ExecRequest(msgspec.Struct, frozen=True):
    """A request for a program in a channel (`ssh_exec`): the fields of `proxy.hooks.SshExec`."""

    channel: ChannelRequest
    kind: str  # exec, subsystem, shell
    command: str = ""
