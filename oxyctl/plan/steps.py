"""The steps of a plan: plain data, the same in memory, in the run directory, and in a diff of two plans."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import field

from oxyctl.net.impairment import Impairment
from oxyctl.topology.choices import Restart


class Step(msgspec.Struct, kw_only=True, frozen=True):
    """One thing to create."""


class Namespace(Step, frozen=True):
    """The network namespace of a node. Each sysctl takes the first of its values that the kernel accepts."""

    node: str
    sysctls: dict[str, list[str]]
    files: dict[str, str] = field(default_factory=dict)  # by path in the node, the file that only this node sees there
    bundle: str | None = None  # a file that replaces the system's bundle of certificates


class Bridge(Step, frozen=True):
    """A network: an Ethernet bridge in the lab's own namespace."""

    network: str
    name: str
    index: int


class Link(Step, frozen=True):
    """A node's interface in a network. Indexes are chosen here so that nothing has to be looked up while building."""

    node: str
    network: str
    interface: str
    index: int
    mac: str
    addresses: list[str]  # with prefix lengths
    port: str  # the other end, in the bridge
    port_index: int
    bridge_index: int
    mtu: int | None = None
    impairment: Impairment = Impairment()


class Device(Step, frozen=True):
    """A device that is not a link: the kernel's end of a tunnel, or a TUN device that an agent opens by name.

    gre and ip6gre: GRE over IPv4 and IPv6; gue and gue6: the kernel's GUE over them, which also listens on `port`.
    """

    node: str
    name: str
    index: int
    kind: Literal["tun", "gre", "ip6gre", "gue", "gue6"]
    mtu: int
    carrier: str = ""  # the interface through which outer packets leave
    local: str = ""  # outer addresses
    remote: str = ""
    key: int | None = None
    checksum: bool = False
    port: int = 0
    addresses: list[str] = field(default_factory=list)  # with prefix lengths
    tables: list[int] = field(default_factory=list)  # routing tables with a default route to the device


class Rule(Step, frozen=True):
    """Packets that arrive through an interface are routed by a table of its own only.

    With `is_first` this includes packets to the node's own addresses: they are forwarded, not delivered locally.
    """

    node: str
    interface: str
    table: int
    is_first: bool = False


By = Literal["kernel", "user space"]


class SiteTunnel(Step, frozen=True):
    """The tunnel of a site, as it will be shown: what carries each end, and its addresses."""

    site: str
    proxy: str
    tenant: str
    network: str  # a virtual network of the tenant
    kind: Literal["gre", "gue"]
    interface: str  # the site's
    addresses: list[str]  # inside the tunnel, the site's
    outer: list[str]  # the site's, the proxy's
    mtu: int
    by: By
    edge: By | None = None  # at the proxy; None: the proxy itself
    lan: str = ""  # the lab network behind the site
    is_probed: bool = True


class Route(Step, frozen=True):
    """A route of a node to destinations outside its networks."""

    node: str
    index: int  # of the interface
    to: str
    via: str
    metric: int = 0  # 0: the kernel's default


class File(Step, frozen=True):
    """A file in the run directory."""

    path: str
    text: str


class Bundle(Step, frozen=True):
    """A file with the certificates of the system and of authorities, which are added as soon as they exist."""

    path: str
    authorities: list[str]  # PEM files


class Process(Step, frozen=True):
    """A program. Its output goes to its log; with `reports`, its standard output is read as lines of JSON."""

    name: str
    command: list[str]
    directory: str
    node: str | None = None  # whose namespaces it runs in; None: the lab's own
    environment: dict[str, str] = field(default_factory=dict)
    reports: bool = False
    inherit: str | None = None  # a directory, open as descriptor INHERITED, for Unix sockets with long paths


INHERITED = 3


class Running(Step, frozen=True, tag="running"):
    """Ready when the program still runs a moment after its start, or has exited with code 0 by then."""


class Control(Step, frozen=True, tag="control"):
    """Ready when `GET /v1/status` on this Unix socket is answered with 200."""

    socket: str


class Tunnel(Step, frozen=True, tag="tunnel"):
    """Ready when the agent reports that the proxy accepted the tunnel, and any services of the node are reported."""

    services: dict[str, int] = field(default_factory=dict)


class SiteOpen(Step, frozen=True, tag="site-open"):
    """Ready when the agents report these ends of a site's tunnel open; with `is_probed`, also that it is healthy."""

    ends: list[str]
    is_probed: bool


class Services(Step, frozen=True, tag="services"):
    """Ready when the services are reported, and each that listens accepts TCP on each of the node's addresses."""

    addresses: list[str]
    services: dict[str, int]  # ports by name


class Port(Step, frozen=True, tag="port"):
    """Ready when a TCP connection to this port is accepted on any of these addresses."""

    addresses: list[str]
    port: int
    timeout_s: float | None = None


class Http(Step, frozen=True, tag="http"):
    """Ready when `GET path` is answered with 200 to 399 at one of these addresses."""

    addresses: list[str]
    port: int
    host: str
    path: str
    timeout_s: float | None = None


class Exec(Step, frozen=True, tag="exec"):
    """Ready when this program, run inside the node in this directory, ends with exit code 0."""

    command: list[str]
    directory: str
    environment: dict[str, str] = field(default_factory=dict)
    timeout_s: float | None = None


Probe = Running | Control | Tunnel | SiteOpen | Services | Port | Http | Exec


class PlannedNode(Step, frozen=True):
    """A node as it will be shown, the process that serves it, and its readiness probe."""

    name: str
    kind: str
    addresses: list[str]
    process: str
    probe: Probe
    control: str | None = None  # the control socket of a proxy
    labels: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)  # for programs that `oxyctl lab exec` runs there
    restart: Restart = "never"  # after its program has ended by itself


class Plan(Step, frozen=True):
    """A complete lab, in the order in which it is created."""

    lab: str
    source: str  # the lab file
    namespaces: list[Namespace]
    bridges: list[Bridge]
    links: list[Link]
    files: list[File]
    processes: list[Process]
    nodes: list[PlannedNode]
    routes: list[Route] = field(default_factory=list)
    devices: list[Device] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    tunnels: list[SiteTunnel] = field(default_factory=list)
    authority: str | None = None  # directory of the lab's authority, if needed before programs start
    bundles: list[Bundle] = field(default_factory=list)
    terminates_ssh: bool = False  # a proxy terminates SSH sessions: the authority also needs a key for SSH hosts
