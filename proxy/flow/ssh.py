"""Child records of an inspected flow: its SSH channels, and the files transferred in them."""

from __future__ import annotations

from typing import Literal

import msgspec

from proxy.flow.record import Verdict
from proxy.verdict import Decision

SCHEMA = "oxy.ssh-channel/1"
FILE_SCHEMA = "oxy.ssh-file/1"
Kind = Literal[
    "shell", "exec", "subsystem", "direct-tcpip", "direct-streamlocal", "tcpip-forward", "forwarded-tcpip",
    "streamlocal-forward", "forwarded-streamlocal", "auth-agent", "x11",
]  # fmt: skip


class ChannelRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One channel. Times are Unix nanoseconds, durations milliseconds; None means unknown."""

    schema: str = SCHEMA
    channel_id: str  # the flow's id, a dot, and the channel's number in it, from 1
    flow_id: str
    tenant: str
    user: str | None = None  # the tunnel's user

    start: int
    duration_ms: float
    is_open: bool = False  # in progress; numbers are as of now

    kind: Kind
    ssh_user: str  # the user name at the origin
    identity: str | None = None  # the authenticated identity of the user
    auth_method: str | None = None
    principals: list[str] = []  # of the certificate shown to the origin
    command: str | None = None
    subsystem: str | None = None
    forward_host: str | None = None
    forward_port: int | None = None
    forward_protocol: str | None = None  # the protocol found in it: ssh, tls, http, h2; it passes uninspected
    terminal: str | None = None
    reason: str | None = None  # why the user asked for it, in the user's words
    client_version: str | None = None
    server_version: str | None = None

    client_bytes: int = 0
    origin_bytes: int = 0
    stderr_bytes: int = 0
    exit_status: int | None = None
    exit_signal: str | None = None
    recording: str | None = None

    verdict: Verdict = "allowed"
    decisions: list[Decision] = []
    error: str | None = None


class FileRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One file that was read or written, or one change of names or attributes."""

    schema: str = FILE_SCHEMA
    channel_id: str
    flow_id: str
    tenant: str
    user: str | None = None
    time: int
    operation: Literal["read", "write", "remove", "rename", "mkdir", "rmdir", "setstat", "symlink", "link", "open"]
    path: str  # as sent; bytes that are not UTF-8 as \\xNN
    target: str | None = None
    sent_as: str | None = None  # the name given by scp's sender; `path` may then be the target directory
    bytes: int = 0
    sha256: str | None = None  # of all bytes read or written, if they were in order
    refused: bool = False
    error: str | None = None
