"""The JSON Schema of lab files: the models with a description of each key, for editors.

Describe each new key of a model here or in its `Meta`, then run `oxyctl lab schema > labs/lab.schema.json`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import msgspec

from oxyctl.topology.file import LabFile
from oxyctl.topology.schema_inspection import INSPECTION

DIALECT = "https://json-schema.org/draft/2020-12/schema"
COMMENT = "made by `oxyctl lab schema`"
Json = dict[str, Any]

# Impairments of an attachment, of all attachments to a network, or of a tunnel.
LINKS = {
    "rate": "Bits per second in each direction: 10mbit, 500kbit, unlimited.",
    "delay": "Delay in each direction: 20ms, 1.5s.",
    "jitter": "How much the delay varies, uniformly distributed: 5ms.",
    "loss": "Share of packets lost in each direction: 1%, 0.01.",
    "down": "Whether the link is down: nothing passes.",
}

# Keys of both kinds of sites.
SITES = {
    "tenant": "The customer that the site belongs to: one of the proxy's tenants.",
    "via": "The proxy that its tunnel leads to; by default the only one.",
    "on": "The network that carries the tunnel, one of the proxy's; or with addresses and impairments of the link.",
    "lan": "The network behind the site's router.",
    "hosts": "Hosts on the LAN, by name: they become the nodes NAME-HOST.",
    "outer": "IP version of the packets that carry the tunnel; by default 4 if both ends have it.",
    "tunnel": "What carries the tunnel: kernel, userspace (an agent), or auto: the kernel if it can.",
    "network": "The tenant's virtual network that it belongs to.",
    "mtu": "The longest packet in the tunnel, in bytes; by default as much as fits into one outer packet.",
    "priority": "Priority of its routes: of equal prefixes the lowest wins.",
    "weight": "Weight of its routes: of equal priorities each gets its share of flows.",
    "probe": "How often each end probes the tunnel; false: never.",
}

# By model and key; `*` applies to every model with such a key that has no text of its own.
DESCRIPTIONS: dict[str, dict[str, str]] = {
    "*": {
        "kind": "The kind.",
        "networks": "Its networks: a list of names, or names with its addresses there.",
        "mtu": "The longest packet, in bytes.",
        "labels": "Labels for selecting nodes.",
        "env": "Variables added to the environment of its programs.",
        "files": "Files that only this node sees: content by absolute path.",
        "routes": "Static routes beside those to its own networks.",
        "count": "Number of such nodes: NAME-1, NAME-2, ... `{i}` in a string is the number.",
        "restart": "When its program ends by itself, restart it: always, on-failure (an exit code other than 0, or "
        "a signal), or never.",
        "trust": "Authorities that its programs trust in addition to the system's: lab-ca (the lab's), or tenant-ca "
        "(also its tenant's, which signs certificates for inspected connections).",
        "resolver": "Whether a resolver for the lab's names listens on port 53 of its loopback.",
        "gateway": "Default gateway of its hosts: a node or an address; false: none.",
        "rate": "Maximum rate: 10mbit, 1gbit.",
        "delay": "Delay of each packet: 20ms.",
        "jitter": "How much the delay varies: 5ms.",
        "loss": "Share of packets lost: 0 to 1, or 0% to 100%.",
        "down": "Whether it is down at the start.",
        # checks
        "name": "Name in reports.",
        "timeout": "Time limit of each attempt: seconds, or 250ms, 5s, 1m30s.",
        "retry_until": "Repeat after a failure until it passes, for at most this long. Without it, it is tried once.",
        "from": "The node, or several, that the check runs from.",
        "to": "Target: NODE or ADDRESS, with :PORT if the protocol has ports.",
        "family": "IP version, 4 or 6; by default the resolver's preference.",
        "expect": "The expected outcome, or several of which one must occur.",
        "size": "Bytes of payload.",
        "proxy": "The proxy's node; needed only if there are several.",
        "tenant": "The tenant.",
        "contains": "Text that must occur in it.",
    },
    "LabFile": {
        "name": "Name of the lab; by default the file's name. --name overrides both.",
        "networks": "Ethernet segments, by name.",
        "nodes": "Nodes by name; names are DNS labels and resolve inside the lab.",
        "defaults": "Defaults for the nodes of each kind; a node's own keys override them.",
        "checks": "Checks and steps that `oxyctl lab check` runs in the lab.",
    },
    "Network": {
        "subnets": "One or more subnets, of either family. Nodes get addresses from them.",
        "mtu": "The longest packet of the links of its nodes, in bytes.",
        **LINKS,
    },
    "Attachment": {"addresses": "Its addresses; without any, one of each subnet is chosen.", **LINKS},
    "Impaired": LINKS,
    "StaticRoute": {
        "to": "A prefix, a network of the lab, or `default`.",
        "via": "A node, or an address.",
    },
    "ProxyNode": {
        "tenants": "The customers, by name. `{}`: a customer with default settings.",
        "settings": "Settings that differ from the proxy's defaults.",
        "policy": "The policy of all tenants, as in a policy file; applied before their own.",
    },
    "LabTenant": {
        "policy": "The tenant's policy, as in a policy file.",
        "policies": "Policy files, by absolute path.",
        "network": "The only network through which its origins are reached.",
        "egress": "The interface through which its origins are reached.",
        "snat": "Source addresses towards origins, one of each family; by default the interface's own.",
        "ports": "Source ports towards origins, such as 2048-4095.",
        "gateway": "The proxy's own addresses in its tunnels, the source of ICMP errors; by default the node's first.",
        "offramp": "How its uninspected flows leave: kernel or sockets; by default as in `settings`.",
        "level": "packet: flows stay packets unless something inspects them. stream: all are terminated.",
        "token": "Token that its tunnels must present; without it any token is accepted.",
        "prefixes": "Prefixes of the addresses that its tunnels may claim.",
        "id": "Its number in the contexts of connectionless tunnels; by default its position in the file.",
        "networks": "Its virtual networks, by name: sites and clients of one never meet those of another.",
        "limits": "Limits on its flows, tunnels and memory.",
        "dscp": "DSCP of its packets: keep, clear, or a value for all of them.",
        "udp_filtering": "Whose datagrams reach a client's port: endpoints it has sent to, their hosts, or anyone.",
    },
    "Limits": {
        "flows": "Maximum number of live flows.",
        "new_flows_per_s": "Maximum number of new flows per second.",
        "tunnels": "Maximum number of open tunnels.",
        "bytes_held": "Maximum number of bytes queued for its tunnels or waiting for reassembly.",
    },
    "Overrides": {
        "timeouts": "Time-outs, in seconds.",
        "records": "The store of ended flows.",
        "bridge": "The private namespace of its kernel sockets.",
        "hooks": "The application: module:Class, found beside the lab file.",
        "offramp": "How uninspected flows leave: kernel (as packets) or sockets.",
        "kernel": "Resources of the node's namespace that the kernel off-ramp uses.",
    },
    "KernelOffRamp": {
        "instance": "Part of the name of its nftables table: oxy_INSTANCE.",
        "mark": "Upper half of its packet and connection marks.",
        "first_zone": "First conntrack zone; each virtual network uses one.",
        "priority": "Priority of its first routing rule.",
        "first_table": "Number of its first routing table.",
        "orphans": "Whether flows of interface on-ramps continue while the proxy is stopped.",
        "orphans_s": "For how long, in seconds.",
        "flowtable": "Let a flowtable carry established flows of interface on-ramps, if the kernel has one.",
    },
    "Timeouts": {
        "context_s": "For a new tunnel to send its context.",
        "connect_s": "For an origin to answer.",
        "tcp_idle_s": "For an established TCP flow without data.",
        "tcp_half_closed_s": "For a TCP flow that one side has closed.",
        "udp_unreplied_s": "For a UDP session without an answer.",
        "udp_idle_s": "For a UDP session with an answer.",
        "dns_idle_s": "For a UDP session to port 53.",
        "icmp_idle_s": "For an exchange of echo messages.",
        "fragments_s": "For all fragments of a packet to arrive.",
    },
    "SpanExport": {
        "endpoint": "URL of the collector, OTLP over HTTP: http://collector:4318/v1/traces.",
        "headers": "Headers of each request to it.",
        "timeout_s": "Time limit of each request, in seconds.",
    },
    "Records": {
        "path": "The database, relative to the proxy's directory.",
        "max_age_s": "Maximum age of records, in seconds; older ones are deleted.",
        "max_rows": "Maximum number of rows; beyond it the oldest are deleted.",
        "max_children": "Maximum number of records of requests, SSH channels and files; then the oldest are deleted.",
        "update_every_s": "How often a live flow is reported.",
        "spans": "An OpenTelemetry collector that gets a span for each flow.",
    },
    "Bridge": {"backlog": "Maximum number of connections waiting to be accepted."},
    "WarpNode": {
        "proxy": "The proxy that it connects to.",
        "tenant": "The customer that it belongs to: one of the proxy's tenants.",
        "user": "Its user, as shown in flow records.",
        "device": "Its device name; by default the node's name.",
        "groups": "Groups of its user, for policies.",
        "posture": "Checks of the device that have passed or failed, for policies.",
        "token": "Token that it presents; by default the tenant's.",
        "network": "The tenant's virtual network that it belongs to.",
        "addresses": "Addresses inside the tunnel; without any, one of each family is chosen.",
        "services": "Services that can be reached through its tunnel, with their ports.",
        "mtu": "MTU of the tunnel: the longest IP packet, in bytes.",
        "tunnel": "Impairment of the tunnel.",
        "offload": "Whether packets of up to 64 KB (GSO) pass the tunnel, to be segmented as late as possible.",
    },
    "Posture": {"passed": "Names of passed checks.", "failed": "Names of failed checks."},
    "UpstreamNode": {
        "services": "Its services, with their ports.",
        "root": "A directory beside the lab file that http and https serve.",
    },
    "Lan": {
        "name": "The network's name; NAME-lan by default.",
        "ipv4": "The IPv4 subnet; false: none. By default 10.k.0.0/24 for the k-th site.",
        "ipv6": "The IPv6 subnet; false: none. By default fd00:10:k::/64 for the k-th site.",
        "router": "Addresses of the site's router on the LAN; without any, the first free ones.",
        **LINKS,
    },
    "SiteHost": {
        "services": "Its services: a list of names, with default ports, or names with ports.",
        "addresses": "Addresses on the LAN; without any, one of each family is chosen.",
        "root": "A directory beside the lab file that http and https serve.",
    },
    "TunnelProbe": {
        "every_s": "Seconds from one echo request to the next.",
        "timeout_s": "Seconds until a request without an answer counts as lost.",
    },
    "NetworkSettings": {
        "routes": "Routes; without any, those to the sites, and everything else leaves the proxy.",
        "egress": "The interface through which its traffic leaves; by default the tenant's.",
        "snat": "Source addresses towards origins; by default the tenant's.",
        "ports": "Source ports towards origins; by default the tenant's.",
        "gateway": "The proxy's own addresses in its tunnels; by default the tenant's.",
    },
    "Route": {
        "prefix": "The destination prefix.",
        "via": "site:NAME, clients, kernel (leaves as packets) or stream (leaves terminated).",
        "priority": "Of equal prefixes the lowest wins; a tunnel that is degraded or down adds to it.",
        "weight": "Of equal priorities each gets its share of flows.",
        "level": "stream: terminate its flows, even though the next hop is a tunnel.",
    },
    "GreSiteNode": {
        **SITES,
        "key": "The GRE key (RFC 2890), the same at both ends.",
        "checksum": "Whether GRE packets carry a checksum.",
        "edge": "What carries the proxy's end; by default the same as `tunnel`.",
    },
    "GueSiteNode": {
        **SITES,
        "context": "Whether its packets name their tenant and site; packets of the kernel's GUE never do.",
        "version": "GUE version of the packets it sends: 0, or 1, which has no header.",
        "token": "Token in the context that its packets must present.",
    },
    "ProcessNode": {
        "command": "The program and its arguments; it runs in the directory of the lab file.",
        "ready": "Probe for its readiness: one of tcp, http and exec. Without it, it is ready once it runs.",
    },
    "Ready": {
        "tcp": "A port that accepts connections, on any address of the node.",
        "http": "A URL that is answered with 200 to 399: http://HOST:PORT/PATH.",
        "exec": "A program, run inside the node, that ends with exit code 0.",
        "timeout": "Time limit for becoming ready: seconds, or 250ms, 5s.",
    },
    "HttpCheck": {
        "url": "The URL to request.",
        "method": "Method of the request.",
        "headers": "Headers of the request.",
        "http2": "Whether to use HTTP/2.",
        "verify": "Whether the certificate must be valid for this name and signed by an authority that the node "
        "trusts, by default the lab's; lab-ca or tenant-ca: signed by that one.",
        "status": "Expected status, or several of which one must occur.",
        "length": "Expected length of the body, in bytes.",
        "sha256": "Expected SHA-256 of the body.",
    },
    "WebSocketCheck": {
        "url": "URL of a WebSocket that echoes: ws:// or wss://.",
        "count": "Number of messages to send.",
        "size": "Bytes of each message.",
        "http2": "Whether to open it over HTTP/2 (RFC 8441).",
        "verify": "As for `http`.",
    },
    "UdpCheck": {"count": "Number of datagrams to send.", "loss": "Share that may be lost: 0 to 1, or 0% to 100%."},
    "PingCheck": {
        "count": "Number of echo requests to send.",
        "loss": "Share that may be lost: 0 to 1, or 0% to 100%.",
        "rtt": "Maximum round-trip time: 5ms, 1s.",
    },
    "DnsCheck": {
        "server": "The server to query.",
        "query": "The name to look up.",
        "type": "The type of record.",
        "over": "udp or tcp.",
        "code": "Expected response code.",
        "answers": "Values that must be among the answers.",
    },
    "ExecCheck": {
        "command": "The program and its arguments.",
        "exit_code": "Expected exit code.",
        "contains": "Text that must occur in its output.",
        "matches": "Regular expression that must match somewhere in its output.",
    },
    "FlowsCheck": {
        "where": "Filters of `oxyctl flows`.",
        "fields": "Expected values of fields: a value, several of which one must match, or '>= 100', '~ ^10[.]'.",
        "at_least": "Minimum number of flows.",
        "at_most": "Maximum number of flows.",
        "since": "Maximum age of flows that count; by default those of this run.",
    },
    "MetricCheck": {
        "metric": "Its name in the proxy's metrics.",
        "value": "Value to compare it with.",
        "op": "Comparison operator.",
        "labels": "Count only samples with these labels.",
    },
    "ImpairCheck": {
        "link": "NODE:NETWORK, NODE:tunnel, or NETWORK: the links of all its nodes.",
        "clear": "Remove all other impairments first.",
        "timeout": "Time limit of the step.",
        **LINKS,
    },
    "PolicyCheck": {
        "policy": "The new policy, as in a policy file.",
        "tenant": "The tenant whose policy it replaces; without one, the policy of all tenants.",
        "revokes": "How many live flows it must end.",
        "timeout": "Time limit for it to be in force and every live flow to be judged again.",
    },
    "NodeCheck": {
        "do": "stop, start, restart, or kill, which ends its programs like a crash.",
        "node": "The node, or several.",
        "timeout": "Time limit for all restarted programs to be ready.",
    },
    "TunnelCheck": {
        "site": "The site with the tunnel.",
        "health": "Health that both ends must see, or several of which one must occur.",
        "by": "What must carry the site's end.",
        "edge": "What must carry the other end of a GRE tunnel.",
        "timeout": "How long to wait for this health.",
    },
    "DroppedCheck": {
        "by": "Kind of traffic to send.",
        "canary": "Target at which the same traffic must arrive before and after; otherwise the check fails.",
    },
}
EXAMPLES: dict[str, dict[str, list[Any]]] = {
    "LabFile": {"name": ["quickstart"]},
    "Network": {"subnets": [["10.50.0.0/24", "fd00:50::/64"]]},
    "ProxyNode": {"networks": [{"internet": ["10.50.0.1", "fd00:50::1"]}, ["internet"]], "tenants": [{"acme": {}}]},
    "WarpNode": {"addresses": [["100.96.0.2", "fd00:96::2"]], "user": ["alice@acme.example"]},
    "UpstreamNode": {"services": [{"http": 80, "https": 443, "ssh": 22, "echo": 7}]},
    "ProcessNode": {"command": [["iperf3", "-s"]]},
}


def lab_schema() -> Json:
    """The schema of a lab file (JSON Schema 2020-12)."""
    schema = msgspec.json.schema(LabFile)
    definitions: Json = schema["$defs"]
    for model, definition in definitions.items():
        if "description" in definition:  # Python 3.13 and later strip the indentation of docstrings
            definition["description"] = inspect.cleandoc(definition["description"])
        for key, value in definition.get("properties", {}).items():
            _describe(model, key, value)
    _name_services(definitions)
    _allow_defaults(definitions)
    reference = {"$ref": schema["$ref"], "$defs": definitions}
    schema = {"$schema": DIALECT, "title": "oxyctl lab file", "$comment": COMMENT, **reference}
    plain: Json = msgspec.json.decode(msgspec.json.encode(schema))  # makes lists of defaults that are tuples
    return plain


def render(schema: Json) -> bytes:
    """The schema as JSON, indented by two spaces, with a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n"


def properties(schema: Json) -> Iterator[tuple[str, str, Json]]:
    """For every key its model, its name and its schema."""
    for model, definition in schema["$defs"].items():
        for key, value in definition.get("properties", {}).items():
            yield model, key, value


def _describe(model: str, key: str, value: Json) -> None:
    """Add description and examples; a description in the model itself takes precedence."""
    own = DESCRIPTIONS.get(model, {}) | INSPECTION.get(model, {})
    description = own.get(key) or DESCRIPTIONS["*"].get(key)
    if description is not None:
        value.setdefault("description", description)
    if (examples := EXAMPLES.get(model, {}).get(key)) is not None:
        value.setdefault("examples", examples)


def _name_services(definitions: Json) -> None:
    """List the names of services, so that editors can offer them."""
    from oxyctl.services.ports import PORTS
    from oxyctl.services.registry import SERVICES

    services: Json = definitions["UpstreamNode"]["properties"]["services"]
    services["propertyNames"] = {"enum": sorted(SERVICES)}
    definitions["WarpNode"]["properties"]["services"]["propertyNames"] = {"enum": sorted(SERVICES)}
    for form in definitions["SiteHost"]["properties"]["services"]["anyOf"]:
        if form["type"] == "object":
            form["propertyNames"] = {"enum": sorted(SERVICES)}
        else:
            form["items"] = {"enum": sorted(PORTS)}


def _allow_defaults(definitions: Json) -> None:
    """Require only `kind` of nodes: all other required keys may be in `defaults:`."""
    top: Json = definitions["LabFile"]["properties"]
    kinds: Json = top["nodes"]["additionalProperties"]
    for reference in kinds["discriminator"]["mapping"].values():
        definitions[reference.rpartition("/")[2]]["required"] = []
    kinds["required"] = ["kind"]
    if "defaults" in top:
        of_kinds = {kind: {"$ref": reference} for kind, reference in kinds["discriminator"]["mapping"].items()}
        top["defaults"] |= {"properties": of_kinds, "additionalProperties": False}
