"""The hooks, in the order of a tunnel's and a flow's life, each with its default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from proxy.context import Extension, TunnelContext
from proxy.flow.context import FlowContext
from proxy.hooks.messages import (
    DnsQuery,
    HttpBodyPart,
    HttpRequest,
    HttpResponse,
    SshAuth,
    SshChannel,
    SshExec,
    TlsClientHello,
    WebSocketMessage,
)
from proxy.verdict import Verdict

OPTIONS = "__hook_options__"

_Method = TypeVar("_Method", bound=Callable[..., Any])


def hook(*, timeout_s: float | None = None, fail_open: bool | None = None) -> Callable[[_Method], _Method]:
    """Give one overridden hook a time and a fail policy of its own, instead of those of its class."""

    def decorate(method: _Method) -> _Method:
        setattr(method, OPTIONS, (timeout_s, fail_open))
        return method

    return decorate


class Hooks(Generic[Extension]):
    """Subclass it, override what you need, and name the class in `hooks:` of proxy.yaml: `package.module:Class`, or
    `./file.py:Class`. A hook that is not overridden costs nothing.

    `Hooks[Extension]` types what the application keeps beside a tunnel and its flows, as `context.extension`.

    **Deciding** hooks return None to leave things as they are, a text, or a `proxy.verdict.Verdict`. Of most of them a
    text denies, with that reason; of `route` it names an off-ramp, of `level` a level. One that raises, takes longer
    than `timeout_s`, or answers with something else, denies; with `fail_open` it is as if it had answered None. `@hook`
    sets both for a single hook. All other hooks only look in: what they return is not read, their failure is logged.
    """

    timeout_s: float = 5.0
    fail_open: bool = False

    async def startup(self) -> None:
        """Before the first tunnel is accepted."""

    async def packet_context(self, data: bytes) -> TunnelContext[Extension] | str | None:
        """What the first datagram of a connected tunnel means. None: the default format, JSON. A text refuses it."""
        return None

    async def tunnel_open(self, context: TunnelContext[Extension]) -> str | Verdict | None:
        """Decides: the tunnel has introduced itself and passed its checks. `context.user`, `device` and `extension`
        may be assigned. A denial refuses the tunnel with its reason."""
        return None

    async def tunnel_close(self, context: TunnelContext[Extension]) -> None:
        """A tunnel that was open is closed."""

    async def flow_start(self, flow: FlowContext[Extension]) -> str | Verdict | None:
        """Decides: a flow's first packet is here, nothing has left the proxy. A verdict may say all
        that there is; after its `ttl_s` the hook is asked again, and a denial ends the flow with `policy_revoked`."""
        return None

    async def route(self, flow: FlowContext[Extension]) -> str | Verdict | None:
        """Decides: the flow may be; where does it leave? `sockets`, `kernel`, `clients` or `site:NAME`; None leaves it
        to the routes. A verdict may also name another `origin`."""
        return None

    async def level(self, flow: FlowContext[Extension]) -> str | Verdict | None:
        """Decides: its next hop is known; how high is the flow lifted? Of TCP and UDP only.

        `packet`: its packets are forwarded unread, where the next hop takes packets. `stream`: its bytes pass sockets
        of the proxy's. `tls`, `http`, `ssh`: they are read. None leaves it to the route and the tenant.
        """
        return None

    async def connect(self, flow: FlowContext[Extension]) -> str | Verdict | None:
        """Decides: everything is settled, and the origin is dialled next, or the first packet sent. Here a verdict
        denies, or names another `origin`."""
        return None

    async def connected(self, flow: FlowContext[Extension]) -> None:
        """The origin has answered, or a session without handshake is open."""

    async def connect_failed(self, flow: FlowContext[Extension]) -> None:
        """The origin refused, was unreachable, or did not answer in time."""

    async def protocol_detected(self, flow: FlowContext[Extension]) -> None:
        """The first bytes say what is spoken: `flow.detected_protocol`."""

    async def tls_client_hello(self, hello: TlsClientHello[Extension]) -> str | Verdict | None:
        """Decides: a handshake begins. A denial ends it with an alert; `level` says whether it is read."""
        return None

    async def http_request(self, request: HttpRequest[Extension]) -> str | Verdict | None:
        """Decides: the head of a request is here. A denial is answered with 403; `Verdict.http` changes headers,
        redirects, or words the page."""
        return None

    async def http_response(self, response: HttpResponse[Extension]) -> str | Verdict | None:
        """Decides: the head of a response is here. A denial is answered with a page instead."""
        return None

    async def http_body(self, part: HttpBodyPart[Extension]) -> bytes | str | Verdict | None:
        """Decides: a part of a body is here, of those that `HttpEffects.reads` or a rule `inspect-body` names. None
        lets it pass, bytes go on in its place (`b""`: nothing yet), a denial is answered with a page, or breaks off
        what has begun."""
        return None

    async def websocket_message(self, message: WebSocketMessage[Extension]) -> str | Verdict | None:
        """Decides: a whole message is here. A denial closes the connection with 1008 (RFC 6455 7.4.1)."""
        return None

    async def ssh_auth(self, auth: SshAuth[Extension]) -> str | Verdict | None:
        """Decides: a user wants in. A password (`auth.responses`) lets in only if the answer is `PROVED`."""
        return None

    async def ssh_channel(self, channel: SshChannel[Extension]) -> str | Verdict | None:
        """Decides: a channel is asked for. A denial refuses it as administratively prohibited (RFC 4254 5.1)."""
        return None

    async def ssh_exec(self, command: SshExec[Extension]) -> str | Verdict | None:
        """Decides: a command, a subsystem or a shell is asked for."""
        return None

    async def dns_query(self, query: DnsQuery[Extension]) -> str | Verdict | None:
        """Decides: a question is here. A denial is answered with REFUSED."""
        return None

    async def flow_update(self, flow: FlowContext[Extension]) -> None:
        """The flow has moved something since the last update: every `records.update_every_s`, `delta` says what."""

    async def flow_end(self, flow: FlowContext[Extension]) -> None:
        """The flow is over: exactly once for each flow, also for one that was denied."""

    async def reload(self) -> None:
        """The configuration is about to be read again: the application may read its own."""

    async def drain(self) -> None:
        """No more tunnels or flows are taken; those that are there are about to end."""

    async def shutdown(self) -> None:
        """After the last flow has ended."""


NAMES = tuple(name for name, member in vars(Hooks).items() if not name.startswith("_") and callable(member))
DECIDING = frozenset({
    "tunnel_open", "flow_start", "route", "level", "connect", "tls_client_hello", "http_request", "http_response",
    "http_body", "websocket_message", "ssh_auth", "ssh_channel", "ssh_exec", "dns_query",
})  # fmt: skip
