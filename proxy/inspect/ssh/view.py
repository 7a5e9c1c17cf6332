"""The interface of an SSH session to its two sides."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, Protocol

import msgspec

from proxy.inspect.ssh.terminal import Terminal
from proxy.session.facts import FlowFacts
from proxy.session.ssh import SSHRules
from proxy.verdict import Ruling


class SSHView(Protocol):
    """Implemented by the session in an inspector, and by stand-ins in tests."""

    @property
    def flow(self) -> FlowFacts: ...

    @property
    def rules(self) -> SSHRules: ...

    def judge(self, facts: Mapping[str, Any]) -> Ruling | None:
        """The ruling of the policies of the phase `ssh`; None if there are none."""
        ...

    def has(self, hook: str) -> bool:
        """Whether the application defines this hook."""
        ...

    def ask(self, hook: str, argument: Any) -> Awaitable[Any]:
        """The answer of a hook; None if the application does not define it."""
        ...

    def certificate(self, public_key: str, user: str, identity: str) -> Awaitable[str]:
        """A user certificate of the proxy's CA for the key. ProxyError: it is not issued."""
        ...

    def sign(self, key: Literal["host", "onward"], data: bytes, algorithm: str) -> Awaitable[bytes]:
        """A signature by one of the proxy's keys (RFC 4253 6.6). ProxyError: it is refused."""
        ...

    def fingerprints(self) -> Awaitable[list[bytes]]:
        """SHA-256 digests of the origin's host keys from DNS, if its answer can be trusted."""
        ...

    def recording(self, name: str) -> Awaitable[int]:
        """A descriptor for a recording of this name, which the caller closes. ProxyError: there is none."""
        ...

    def opened(self, channel_id: str, end: Callable[[str], None], terminal: Terminal | None) -> None:
        """Note an open session channel; `end` ends it with a message for the user."""
        ...

    def record(self, child: msgspec.Struct) -> None:
        """Log a child record of the flow."""
        ...
