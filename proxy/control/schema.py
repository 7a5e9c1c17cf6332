"""The schema of the control API: the structure of its answers, and the interface that the server needs of the proxy."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any, Literal, Protocol

import msgspec

from proxy.ca.info import AuthorityInfo, Certificate, Rotation
from proxy.control.ssh_schema import HostKey, Recording, Screen, SSHView
from proxy.flow.child import Child, ChildKind, ChildPage, ChildQuery, StoredChild
from proxy.flow.childparameters import CHILD_PARAMETERS, parse_children
from proxy.flow.groups import GROUP_FIELDS, GROUP_SORTS, Group, GroupsPage, GroupsQuery, Sums
from proxy.flow.parameters import (
    EXPORT_PARAMETERS,
    GROUP_PARAMETERS,
    LIST_PARAMETERS,
    WATCH_PARAMETERS,
    QueryError,
    parse_duration,
    parse_groups,
    parse_query,
    parse_size,
    parse_time,
)
from proxy.flow.query import MAX_LIMIT, SORT_KEYS, FlowQuery, Page, StoredFlow, Window, payload_bytes
from proxy.flow.record import ClosedBy, CloseReason, Event, FlowRecord, Level, State, TLSRecord, Totals, Verdict
from proxy.flow.record import Protocol as FlowProtocol
from proxy.flow.request import RequestRecord
from proxy.flow.ssh import ChannelRecord, FileRecord
from proxy.policy.answers import Explanation, PolicyInfo, Question, Reloaded
from proxy.settings.sites import Route
from proxy.verdict import Decision

__all__ = [
    "CHILD_PARAMETERS",
    "EXPORT_PARAMETERS",
    "GROUP_FIELDS",
    "GROUP_PARAMETERS",
    "GROUP_SORTS",
    "LIST_PARAMETERS",
    "MAX_LIMIT",
    "SCHEMA",
    "SORT_KEYS",
    "WATCH_PARAMETERS",
    "AuthorityInfo",
    "Certificate",
    "ChannelRecord",
    "Child",
    "ChildKind",
    "ChildPage",
    "ChildQuery",
    "ChildrenAnswer",
    "CloseReason",
    "ClosedBy",
    "Decision",
    "Event",
    "Exported",
    "FileRecord",
    "FlowProtocol",
    "FlowQuery",
    "FlowRecord",
    "FlowsAnswer",
    "Group",
    "GroupsAnswer",
    "GroupsPage",
    "GroupsQuery",
    "HostKey",
    "InspectorStatus",
    "KernelOffRampStatus",
    "Level",
    "Lost",
    "Page",
    "ProxyView",
    "QueryError",
    "Recording",
    "RecordsStatus",
    "RequestRecord",
    "Rotation",
    "RouteInfo",
    "RoutesChange",
    "SSHView",
    "Screen",
    "State",
    "Status",
    "StoredChild",
    "StoredFlow",
    "Sums",
    "TLSRecord",
    "TenantStatus",
    "Totals",
    "TunnelInfo",
    "Verdict",
    "Window",
    "parse_children",
    "parse_duration",
    "parse_groups",
    "parse_query",
    "parse_size",
    "parse_time",
    "payload_bytes",
    "where_fields",
]

SCHEMA = "oxyctl/1"


def where_fields() -> list[tuple[str, str, str]]:
    """The fields of `where`: name, kind, description."""
    from proxy.flow.where import FIELDS  # 0.2 s to import: only when needed

    return [(field.name, str(field.kind), field.doc) for field in FIELDS]


class RecordsStatus(msgspec.Struct, kw_only=True, frozen=True):
    """The store of ended flows: numbers of stored and of lost records, and the end of the oldest (Unix ns)."""

    stored: int = 0
    lost: int = 0  # since the proxy started
    audit_lost: int = 0  # likewise, for the audit log
    spans_lost: int = 0  # likewise, for spans sent to a collector
    oldest: int | None = None


class KernelOffRampStatus(msgspec.Struct, kw_only=True, frozen=True):
    """How uninspected flows leave, and the use of the conntrack table if the kernel carries them."""

    # sockets: as the settings ask. unavailable: they ask for the kernel, and `reason` says why sockets are used
    state: Literal["kernel", "sockets", "unavailable"] = "sockets"
    reason: str | None = None
    table: str | None = None  # the nftables table, in the family inet
    devices: list[str] = []  # TUN devices through which flows leave, in the namespace of the proxy
    conntrack_entries: int = 0  # of the whole namespace
    conntrack_max: int = 0
    repairs: int = 0  # how often our table was restored after changes by others
    lost: int = 0  # how often kernel events about flows arrived faster than they were read


class InspectorStatus(msgspec.Struct, kw_only=True, frozen=True):
    """One process that terminates TLS, HTTP and SSH."""

    number: int
    pid: int
    is_ready: bool = True  # False: still starting
    sessions: int = 0  # open now
    served: int = 0  # since it started
    memory_bytes: int = 0  # resident
    shortfalls: list[str] = []  # privileges that it could not give up, in words


class TenantStatus(msgspec.Struct, kw_only=True):
    """Counters of one tenant: `client_*` for packets from its tunnels, `origin_*` for packets to them."""

    tunnels: int = 0
    flows: dict[str, int] = {}  # live, by protocol
    flows_started: dict[str, int] = {}  # since the proxy started, by protocol
    flows_ended: dict[str, int] = {}  # by close reason
    client_packets: int = 0
    client_bytes: int = 0
    origin_packets: int = 0
    origin_bytes: int = 0
    drops: dict[str, int] = {}  # by DropReason


class Status(msgspec.Struct, kw_only=True):
    """The state of the whole proxy at one moment."""

    node: str
    version: str
    pid: int
    started: int  # Unix ns
    uptime_s: float
    state: Literal["running", "draining"] = "running"
    tunnels: int = 0
    flows: dict[str, int] = {}  # live, by protocol
    tenants: dict[str, TenantStatus] = {}
    drops: dict[str, int] = {}  # of all tenants, and of packets and tunnels not yet assigned to one
    records: RecordsStatus = RecordsStatus()
    kernel: dict[str, int] = {}  # counters of the private namespace
    kernel_offramp: KernelOffRampStatus = KernelOffRampStatus()
    inspectors: list[InspectorStatus] = []
    key_logs: dict[str, str] = {}  # by tenant: files to which TLS session secrets are written
    inspectors_died: int = 0  # unexpectedly


class TunnelInfo(msgspec.Struct, kw_only=True):
    """One open tunnel. `in` is from the client, `out` to the client."""

    id: str
    onramp: str
    tenant: str
    user: str | None = None
    device: str | None = None
    groups: list[str] = []  # of the user
    posture_passed: list[str] = []  # checks of the device
    posture_failed: list[str] = []
    addresses: list[str] = []
    mtu: int
    offload: str | None = None
    opened: int  # Unix ns
    packets_in: int = 0
    bytes_in: int = 0
    packets_out: int = 0
    bytes_out: int = 0
    queued_bytes: int = 0
    flows: int = 0
    network: str = "default"
    site: str | None = None
    peer: str | None = None  # the destination of its packets, if it is unconnected
    refused: str | None = None  # why the policy refuses it, although the settings open it
    health: Literal["healthy", "degraded", "down"] | None = None  # None: it is not probed
    rtt_ms: float | None = None  # of the last answered probe
    probes_answered: int = 0
    probes_lost: int = 0


class RouteInfo(msgspec.Struct, kw_only=True):
    """One route of a tenant's virtual network, and its use. All but the last two fields are as in proxy.yaml."""

    tenant: str
    network: str = "default"
    prefix: str
    via: str
    priority: int = 100
    weight: int = 1
    level: Literal["stream", "tls", "http"] | None = None
    cost: int | None = None  # priority plus the penalty of its best tunnel; None: the site has no open tunnel
    flows: int = 0  # that use it


class RoutesChange(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of `PUT /v1/routes`: all routes of one virtual network, until the proxy ends."""

    tenant: str
    network: str = "default"
    routes: list[Route]


class FlowsAnswer(msgspec.Struct, kw_only=True):
    """The answer to `GET /v1/flows`."""

    schema: str = SCHEMA
    kind: str = "flows"
    items: list[FlowRecord]
    window: Window
    lost: int
    truncated: bool


class ChildrenAnswer(msgspec.Struct, kw_only=True):
    """The answer to `GET /v1/requests`, `/v1/channels` and `/v1/files`. `before` of the next page is `next`."""

    schema: str = SCHEMA
    kind: str
    items: list[Any]
    window: Window
    lost: int
    truncated: bool
    next: int | None = None


class GroupsAnswer(msgspec.Struct, kw_only=True):
    """The answer to `GET /v1/flows/groups`."""

    schema: str = SCHEMA
    kind: str = "flow-groups"
    items: list[Group]
    window: Window
    lost: int
    truncated: bool


class Exported(msgspec.Struct, kw_only=True):
    """The last line of an export, with its counts. Without it, the export was cut off."""

    exported: int
    window: Window
    lost: int


class Lost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of a watch: this many events were skipped, as the watcher did not keep up."""

    lost: int


class PolicyView(Protocol):
    """The policies, as used by the control server."""

    def describe(self, *, text: bool) -> list[PolicyInfo]: ...

    async def reload_and_report(self) -> Reloaded:
        """Reload the files. Raises DocumentError if one is invalid; then nothing has changed."""
        ...

    def explain(self, question: Question) -> Explanation | None:
        """Explain a flow's decision. Raises ValueError if the description of the flow is invalid."""
        ...


class AuthorityView(Protocol):
    """The authorities, as used by the control server. Raises ProxyError if one cannot be read, created or rotated."""

    def tenants(self) -> list[str]: ...

    def known(self) -> list[str]:
        """The tenants that have an authority."""
        ...

    def describe(self, tenant: str) -> AuthorityInfo: ...

    def rotate(self, tenant: str, overlap_s: float) -> object: ...


class ProxyView(Protocol):
    """The proxy, as used by the control server. Everything is called on the event loop; methods that scan flows are
    awaited, and let packets pass meanwhile."""

    @property
    def policy(self) -> PolicyView | None:
        """The policies in force, or None if the settings name none."""
        ...

    @property
    def ssh(self) -> SSHView | None: ...

    @property
    def authorities(self) -> AuthorityView | None: ...

    def status(self) -> Status: ...

    def tunnels(self, tenant: str | None) -> list[TunnelInfo]: ...

    async def routes(self, tenant: str | None) -> list[RouteInfo]: ...

    def set_routes(self, change: RoutesChange) -> None:
        """Replace the routes of one network. Raises ProxyError if the tenant, the network or a next hop is unknown."""
        ...

    async def resolve_request_filters(self, query: FlowQuery) -> FlowQuery | None:
        """The query, with its conditions on requests resolved to flows; None: no live flow matches."""
        ...

    async def list_children(self, query: ChildQuery) -> ChildPage:
        """The requests, channels or files that match: open ones first, then by end, latest first."""
        ...

    async def live_flows(self, query: FlowQuery) -> list[FlowRecord]:
        """An `update` record of each live flow that matches: at least the first in the query's order, up to one more
        than its limit. A flow that ends meanwhile may be missing."""
        ...

    async def past_flows(self, query: FlowQuery) -> Page: ...

    def all_live_flows(self, query: FlowQuery) -> AsyncGenerator[FlowRecord, None]:
        """All live flows that match, record by record, in no order."""
        ...

    async def recorded_tenants(self) -> list[str]: ...

    async def flow_groups(self, query: GroupsQuery) -> GroupsPage:
        """Aggregated flows: the first groups in the query's order."""
        ...

    def watch(self, tenant: str | None, put: Callable[[FlowRecord], None]) -> Callable[[], None]:
        """Pass each later record of the tenant to `put`. Returns a function that ends the watch."""
        ...

    def watch_ends(self, tenant: str | None, put: Callable[[FlowRecord], None]) -> Callable[[], None]:
        """As `watch`, for the last record of each flow."""
        ...

    async def kill(self, flow_id: str, tenant: str | None) -> bool:
        """End a live flow as `admin_killed`. Returns False if the tenant has no such flow."""
        ...

    async def metrics(self) -> str: ...
