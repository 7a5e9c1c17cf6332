"""The requests to the generators: one structure for each kind of traffic."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, field

MAX_IN_FLIGHT = 1000  # at a rate, by default
DEFAULT_COUNT = 10
DEFAULT_BULK_S = 5.0
MAX_DATAGRAM = 65_507
DNS_PORT = 53

Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
TcpMode = Literal["connect", "up", "down", "both"]
Family = Literal[4, 6]


class Traffic(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """With a `rate` the loop is open: an exchange is due every 1/rate s, and its latency begins when it was due.

    A target that stalls therefore shows in the latency of everything that should have been sent meanwhile, which is
    what its users would have seen. Without a `rate` the loop is closed: `concurrency` exchanges at any time, the next
    one when one has ended, and a stall delays what would have measured it (coordinated omission).
    """

    target: str
    family: Family | None = None  # None: the first address of the name
    rate: Positive | None = None  # exchanges per second, all together
    count: Count | None = None
    duration_s: Positive | None = None  # this or `count`, whichever ends first; neither: DEFAULT_COUNT
    concurrency: Count | None = None  # maximum number at once; None: 1, or with a rate MAX_IN_FLIGHT
    timeout_s: Positive = 5.0  # for each exchange, after it is sent
    detail: bool = False  # the report includes the last answer

    @property
    def kind(self) -> str:
        """The name of the kind: `http`, `tcp`, ..."""
        return str(self.__struct_config__.tag)

    @property
    def exchanges(self) -> int | None:
        """The maximum number of exchanges; None: as many as fit into the duration."""
        return DEFAULT_COUNT if self.count is None and self.duration_s is None else self.count

    @property
    def slots(self) -> int:
        """The maximum number of exchanges under way at once."""
        return self.concurrency or (MAX_IN_FLIGHT if self.rate else 1)


class HttpTraffic(Traffic, frozen=True, tag="http"):
    """Requests to the URL `target`. Certificates are verified only against a `ca`."""

    method: Annotated[str, Meta(pattern="^[A-Z]{1,20}$")] = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    size: Annotated[int, Meta(ge=0)] = 0  # bytes of the request's body
    keep_alive: bool = True
    http2: bool = False  # otherwise HTTP/1.1
    ca: str | None = None  # a file in PEM


class WebSocketTraffic(Traffic, frozen=True, tag="websocket"):
    """Messages to the WebSocket `target`, ws:// or wss://, which echoes them; one connection for each at once."""

    size: Annotated[int, Meta(ge=0, le=64 << 20)] = 64  # bytes of a message
    http2: bool = False  # by extended CONNECT (RFC 8441); otherwise HTTP/1.1
    ca: str | None = None  # a file in PEM


class TcpTraffic(Traffic, frozen=True, tag="tcp"):
    """Connections to `host:port`, opened and closed (`connect`), or filled for a while (`up`, `down`, `both`).

    A `target` of `http://...` is filled by way of HTTP: `up` is POST /sink, `down` is GET /bytes/N.
    """

    mode: TcpMode = "connect"
    size: Annotated[int, Meta(ge=1, le=16 << 20)] = 64 << 10  # bytes per write


class UdpTraffic(Traffic, frozen=True, tag="udp"):
    """Datagrams to an echo service at `host:port`."""

    size: Annotated[int, Meta(ge=8, le=MAX_DATAGRAM)] = 64


class PingTraffic(Traffic, frozen=True, tag="ping"):
    """ICMP or ICMPv6 echo requests to a host; `size` is their payload."""

    size: Annotated[int, Meta(ge=8, le=MAX_DATAGRAM - 20)] = 56


class DnsTraffic(Traffic, frozen=True, tag="dns"):
    """Queries for `query` to the server at `host` or `host:port`."""

    query: str
    type: str = "A"
    over: Literal["udp", "tcp"] = "udp"


AnyTraffic = HttpTraffic | WebSocketTraffic | TcpTraffic | UdpTraffic | PingTraffic | DnsTraffic
