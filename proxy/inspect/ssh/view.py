"""What the two sides of an SSH session need of the session that they belong to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, Protocol

import msgspec

from proxy.inspect.ssh.terminal import Terminal
from proxy.session.facts import FlowFacts
from proxy.session.ssh import SSHRules
from proxy.verdict import Ruling


class SSHView(Protocol):
    """Implemented by the session in an inspector; in tests by something smaller."""

    @property
    def flow(self) -> FlowFacts: ...

    @property
    def rules(self) -> SSHRules: ...

    def judge(self, facts: Mapping[str, Any]) -> Ruling | None:
        """What the policies of the phase `ssh` say; None when there are none."""
        ...

    def has(self, hook: str) -> bool:
        """Whether the application has a hook of this name."""
        ...

    def ask(self, hook: str, argument: Any) -> Awaitable[Any]:
        """The answer of a hook; None where the application has none."""
        ...

    def certificate(self, public_key: str, user: str, identity: str) -> Awaitable[str]:
        """A user certificate of the proxy's CA for the key; ProxyError when there is none."""
        ...

    def sign(self, key: Literal["host", "onward"], data: bytes, algorithm: str) -> Awaitable[bytes]:
        """A signature of a key of the proxy's (RFC 4253 6.6); ProxyError when there is none."""
        ...

    def fingerprints(self) -> Awaitable[list[bytes]]:
        """SHA-256 digests of the origin's host keys, as DNS has them; none that cannot be trusted."""
        ...

    def recording(self, name: str) -> Awaitable[int]:
        """A descriptor to write a recording of this name to, which the caller closes; ProxyError when there is none."""
        ...

    def opened(self, channel_id: str, end: Callable[[str], None], terminal: Terminal | None) -> None:
        """A session channel is open; `end` ends it, with words for the user."""
        ...

    def record(self, child: msgspec.Struct) -> None:
        """Log a child record of the flow."""
        ...
