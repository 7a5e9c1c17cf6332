"""The hooks, in the order in which they are called during the life of a tunnel and its flows, each with its default."""

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
    """Set the time limit and the failure policy of a single overridden hook, in place of those of its class."""

    def decorate(method: _Method) -> _Method:
        setattr(method, OPTIONS, (timeout_s, fail_open))
        return method

    return decorate


class Hooks(Generic[Extension]):
    """Subclass it, override what you need, and name the class in `hooks:` of proxy.yaml: `package.module:Class`, or
    `./file.py:Class`. A hook that is not overridden costs nothing.

    `Hooks[Extension]` sets the type of the application's own data on a tunnel and its flows, `context.extension`.

    **Deciding** hooks return None to leave things as they are, a text, or a `proxy.verdict.Verdict`. A text denies, and
    is the reason; from `route` it is the name of an off-ramp, from `level` that of a level. A hook that raises, takes
    longer than `timeout_s`, or returns anything else denies; with `fail_open`, it counts as having returned None.
    `@hook` sets both for a single hook. All other hooks only observe: their results are ignored, failures logged.
    """

    timeout_s: float = 5.0
    fail_open: bool = False

    async def startup(self) -> None:
        """Before the first tunnel is accepted."""

    async def packet_context(self, data: bytes) -> TunnelContext[Extension] | str | None:
        """Decode the first datagram of a connected tunnel. None: the default format, JSON. A text refuses it."""
        return None

    async def tunnel_open(self, context: TunnelContext[Extension]) -> str | Verdict | None:
        """Decides: the tunnel has sent its context and passed its checks. `context.user`, `device` and `extension` may
        be assigned. A denial refuses the tunnel with its reason."""
        return None

    async def tunnel_close(self, context: TunnelContext[Extension]) -> None:
        """An open tunnel has been closed."""

    async def flow_start(self, flow: FlowContext[Extension]) -> str | Verdict | None:
        """Decides: a flow's first packet has arrived, and nothing has left the proxy. A verdict may set any field;
        after its `ttl_s` the hook is called again, and a denial then ends the flow with `policy_revoked`."""
        return None

    async def route(self, flow: FlowContext[Extension]) -> str | Verdict | None:
        """Decides: the off-ramp of an allowed flow: `sockets`, `kernel`, `clients` or `site:NAME`; None leaves the
        choice to the routes. A verdict may also set another `origin`."""
        return None

    async def level(self, flow: FlowContext[Extension]) -> str | Verdict | None:
        """Decides: the level of a TCP or UDP flow whose next hop is known.

        `packet`: forward its packets uninspected, if the next hop takes packets. `stream`: relay its bytes through
        sockets of the proxy. `tls`, `http`, `ssh`: inspect them. None leaves the choice to the route and the tenant.
        """
        return None

    async def connect(self, flow: FlowContext[Extension]) -> str | Verdict | None:
        """Decides: route and level are settled; next the origin is dialled, or the first packet sent. A verdict can
        only deny, or set another `origin`."""
        return None

    async def connected(self, flow: FlowContext[Extension]) -> None:
        """The origin has answered, or a session without a handshake is open."""

    async def connect_failed(self, flow: FlowContext[Extension]) -> None:
        """The origin refused, was unreachable, or did not answer in time."""

    async def protocol_detected(self, flow: FlowContext[Extension]) -> None:
        """The first bytes have identified the protocol: `flow.detected_protocol`."""

    async def tls_client_hello(self, hello: TlsClientHello[Extension]) -> str | Verdict | None:
        """Decides: a handshake begins. A denial ends it with an alert; `level` decides whether it is inspected."""
        return None

    async def http_request(self, request: HttpRequest[Extension]) -> str | Verdict | None:
        """Decides: the head of a request has arrived. A denial is answered with 403; `Verdict.http` changes headers,
        redirects, or sets the text of the page."""
        return None

    async def http_response(self, response: HttpResponse[Extension]) -> str | Verdict | None:
        """Decides: the head of a response has arrived. A denial replaces the response by a page."""
        return None

    async def http_body(self, part: HttpBodyPart[Extension]) -> bytes | str | Verdict | None:
        """Decides: a part of a body has arrived, for bodies selected by `HttpEffects.reads` or a rule `inspect-body`.
        None forwards it, bytes replace it (`b""`: nothing yet). A denial is answered with a page, or aborts a message
        that has begun."""
        return None

    async def websocket_message(self, message: WebSocketMessage[Extension]) -> str | Verdict | None:
        """Decides: a complete message has arrived. A denial closes the connection with 1008 (RFC 6455 7.4.1)."""
        return None

    async def ssh_auth(self, auth: SshAuth[Extension]) -> str | Verdict | None:
        """Decides: a user authenticates. A password (`auth.responses`) is accepted only by returning `PROVED`."""
        return None

    async def ssh_channel(self, channel: SshChannel[Extension]) -> str | Verdict | None:
        """Decides: a channel is requested. A denial refuses it as administratively prohibited (RFC 4254 5.1)."""
        return None

    async def ssh_exec(self, command: SshExec[Extension]) -> str | Verdict | None:
        """Decides: a command, a subsystem or a shell is requested."""
        return None

    async def dns_query(self, query: DnsQuery[Extension]) -> str | Verdict | None:
        """Decides: a DNS query has arrived. A denial is answered with REFUSED."""
        return None

    async def flow_update(self, flow: FlowContext[Extension]) -> None:
        """The flow has carried traffic since the last update, `delta`. Called every `records.update_every_s`."""

    async def flow_end(self, flow: FlowContext[Extension]) -> None:
        """The flow has ended. Called exactly once for each flow, including denied ones."""

    async def reload(self) -> None:
        """The configuration is about to be reloaded; the application may reload its own."""

    async def drain(self) -> None:
        """No new tunnels or flows are accepted; existing ones are about to end."""

    async def shutdown(self) -> None:
        """After the last flow has ended."""


NAMES = tuple(name for name, member in vars(Hooks).items() if not name.startswith("_") and callable(member))
DECIDING = frozenset({
    "tunnel_open", "flow_start", "route", "level", "connect", "tls_client_hello", "http_request", "http_response",
    "http_body", "websocket_message", "ssh_auth", "ssh_channel", "ssh_exec", "dns_query",
})  # fmt: skip
