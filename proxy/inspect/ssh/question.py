"""What hooks are asked about an SSH session."""

from __future__ import annotations

import msgspec

from proxy.session.facts import FlowFacts


class Auth(msgspec.Struct, frozen=True):
    """Somebody wants to log in. The answer is who it is, or None: not let in."""

    flow: FlowFacts
    username: str
    method: str  # password, keyboard-interactive
    answers: list[str]

    def __repr__(self) -> str:  # what is secret stays out of logs
        return f"Auth(username={self.username!r}, method={self.method!r})"


class ChannelRequest(msgspec.Struct, frozen=True):
    """A channel is wanted (`ssh_channel`), or a command in one (`ssh_exec`).

    The answer: None allows; a text denies with that reason; a verdict is obeyed.
    """

    flow: FlowFacts
    username: str
    identity: str
    kind: str
    command: str | None = None
    subsystem: str | None = None
    host: str | None = None
    port: int | None = None
