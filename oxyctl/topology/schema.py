"""The JSON Schema of lab files: the models, with a sentence for each key, for editors to show and to check by.

A new key of a model gets its sentence here, or in its `Meta`, and `oxyctl lab schema > labs/lab.schema.json` follows.
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

# What is done to frames, of an attachment, of all attachments to a network, or of a tunnel.
LINKS = {
    "rate": "Bits a second in each direction: 10mbit, 500kbit, unlimited.",
    "delay": "How long each direction takes: 20ms, 1.5s.",
    "jitter": "How much the delay varies, evenly: 5ms.",
    "loss": "The share that is lost in each direction: 1%, 0.01.",
    "down": "Cut: nothing passes.",
}

# What sites of either kind may say.
SITES = {
    "tenant": "The customer whose site it is: one of the proxy's tenants.",
    "via": "The proxy that its tunnel leads to; by default the only one.",
    "on": "The network that carries the tunnel, one of the proxy's; or with addresses and impairments of the link.",
    "lan": "The network behind the site's router.",
    "hosts": "Hosts on the LAN, by name: they become the nodes NAME-HOST.",
    "outer": "The IP version of the packets that carry the tunnel; 4 where both ends have it.",
    "tunnel": "Who carries the tunnel: the kernel, an agent in user space, or the kernel where it can.",
    "network": "The virtual network of the tenant that it belongs to.",
    "mtu": "The longest packet in the tunnel, in bytes; by default what its carrier has room for.",
    "priority": "Of its routes: of equal prefixes the lowest counts.",
    "weight": "Of its routes: of equal priorities each gets its share of flows.",
    "probe": "How often each end asks whether the tunnel still carries packets; false: never.",
}

# By model and key; `*` applies to every model with such a key that has no text of its own.
SENTENCES: dict[str, dict[str, str]] = {
    "*": {
        "kind": "What it is.",
        "networks": "The networks that it is in: a list of names, or each with the addresses that it has there.",
        "mtu": "The longest packet, in bytes.",
        "labels": "Words of your own, to select by.",
        "env": "Variables added to the environment of its programs.",
        "files": "Files that only this node sees, by absolute path, with what is in them.",
        "routes": "Routes beyond those to its own networks: a destination, and the way to it.",
        "count": "Number of them: NAME-1, NAME-2, ... `{i}` in a text is the number.",
        "restart": "When its program has ended by itself, it is started again: always, on-failure (any other exit code "
        "than 0, or a signal), never.",
        "trust": "Authorities that its programs trust beside the system's: lab-ca, the lab's own, or tenant-ca, its "
        "tenant's as well, which signs for what is inspected.",
        "resolver": "Whether names of the lab are answered at port 53 of its loopback.",
        "gateway": "Where other packets go: a node or an address; false: nowhere.",
        "rate": "The most that passes: 10mbit, 1gbit.",
        "delay": "How long each packet is held: 20ms.",
        "jitter": "How much the delay varies: 5ms.",
        "loss": "The share that is lost: 0 to 1, or 0% to 100%.",
        "down": "Whether it begins unplugged.",
        # checks
        "name": "What reports call it.",
        "timeout": "For each attempt: seconds, or 250ms, 5s, 1m30s.",
        "retry_until": "Try again until it is so, for this long at most. Without it, one attempt decides.",
        "from": "The node that tries it; of several, each does.",
        "to": "Where to: NODE or ADDRESS, with :PORT where there are ports.",
        "family": "4 or 6; without it, whatever the resolver prefers.",
        "expect": "How it should end, or the several ways of which one must come true.",
        "size": "Bytes of payload.",
        "proxy": "The proxy's node; needed only where there are several.",
        "tenant": "Whose.",
        "contains": "Text that must be in it.",
    },
    "LabFile": {
        "name": "What the lab is called; the file's own name unless it is said here or with --name.",
        "networks": "Ethernets, by name.",
        "nodes": "Machines, by name: DNS labels, which resolve inside the lab.",
        "defaults": "What all nodes of a kind have in common, by kind; what a node says itself comes first.",
        "checks": "What must be true while the lab is up: `oxyctl lab check`.",
    },
    "Network": {
        "subnets": "One subnet of each family, or more. Nodes get their addresses from them.",
        "mtu": "The longest packet of the links of its nodes, in bytes.",
        **LINKS,
    },
    "Attachment": {"addresses": "These and no others; without any, one of each subnet is chosen.", **LINKS},
    "Impaired": LINKS,
    "StaticRoute": {
        "to": "A prefix, a network of the lab, or `default`.",
        "via": "A node, or an address.",
    },
    "ProxyNode": {
        "tenants": "The customers, by name. `{}` is one without limits of its own.",
        "settings": "What differs from the proxy's own defaults.",
        "policy": "The policy of all tenants, as in a policy file; it comes before theirs.",
    },
    "LabTenant": {
        "policy": "Its policy, as in a policy file.",
        "policies": "Policy files, by absolute path.",
        "network": "Its origins are in this network, or behind it, and nowhere else.",
        "egress": "The interface by which its origins are reached.",
        "snat": "Source addresses outside, one of each family; by default the interface's own.",
        "ports": "Source ports outside, such as 2048-4095.",
        "offramp": "How its unread flows leave: kernel or sockets; by default as `settings` say.",
        "level": "packet: flows stay packets unless something reads them. stream: all are terminated.",
        "token": "What its tunnels must present; without it any token will do.",
        "prefixes": "What its tunnels may claim as their own addresses.",
        "id": "Its number in the contexts of unconnected tunnels; by default its place in the file.",
        "networks": "Its virtual networks, by name: sites and clients of one never meet those of another.",
        "limits": "What it may hold at once.",
        "dscp": "DSCP of its packets: keep, clear, or a value for all of them.",
        "udp_filtering": "Whose datagrams reach a client's port: of those it wrote to, of their hosts, or anybody's.",
    },
    "Limits": {
        "flows": "Live flows.",
        "new_flows_per_s": "New flows in a second.",
        "tunnels": "Open tunnels.",
        "bytes_held": "Bytes queued for its tunnels and waiting for reassembly.",
    },
    "Overrides": {
        "timeouts": "How long things may take, in seconds.",
        "records": "The store of ended flows.",
        "bridge": "The private namespace of its kernel sockets.",
        "hooks": "The application: module:Class, found beside the lab file.",
        "offramp": "How unread flows leave: as packets by the kernel, or by sockets.",
        "kernel": "What the kernel off-ramp uses of the node's namespace.",
    },
    "KernelOffRamp": {
        "instance": "In the name of its nftables table: oxy_INSTANCE.",
        "mark": "Upper half of its packet and connection marks.",
        "first_zone": "First conntrack zone; each virtual network has one.",
        "priority": "Of its first routing rule.",
        "first_table": "First of its routing tables.",
        "orphans": "Whether flows of interface on-ramps go on while the proxy is away.",
        "orphans_s": "For how long, in seconds.",
    },
    "Timeouts": {
        "context_s": "Until a new tunnel has said who it is.",
        "connect_s": "Until an origin has answered.",
        "tcp_idle_s": "Of an established TCP flow without a byte.",
        "tcp_half_closed_s": "Of one that one side has closed.",
        "udp_unreplied_s": "Of a UDP session that nobody answers.",
        "udp_idle_s": "Of one that was answered.",
        "dns_idle_s": "Of one to port 53.",
        "icmp_idle_s": "Of an exchange of echo messages.",
        "fragments_s": "Until all fragments of a packet are there.",
    },
    "SpanExport": {
        "endpoint": "Its address for OTLP over HTTP: http://collector:4318/v1/traces.",
        "headers": "What it wants to be told with each request.",
        "timeout_s": "How long it may take to answer.",
    },
    "Records": {
        "path": "The database, relative to the proxy's directory.",
        "max_age_s": "Older records go.",
        "max_rows": "Maximum number of rows; beyond it the oldest are deleted.",
        "max_children": "Maximum number of records of requests, SSH channels and files; then the oldest are deleted.",
        "update_every_s": "How often a live flow is reported.",
        "spans": "A collector of OpenTelemetry that gets a span of each flow.",
    },
    "Bridge": {"backlog": "Connections that wait to be accepted."},
    "WarpNode": {
        "proxy": "The proxy that it is connected to.",
        "tenant": "The customer that it belongs to: one of the proxy's.",
        "user": "Who uses it, as flow records show it.",
        "device": "What it calls itself; the node's name by default.",
        "groups": "Of its user, for policies.",
        "posture": "Which checks of the device have passed and which have failed, for policies.",
        "token": "What it presents; the tenant's own by default.",
        "network": "The virtual network of the tenant that it belongs to.",
        "addresses": "Inside the tunnel; without any, one of each family is chosen.",
        "services": "What it serves to who reaches it through its tunnel, and at which port.",
        "mtu": "Of the tunnel: the longest IP packet, in bytes.",
        "tunnel": "What is done to packets in the tunnel.",
        "offload": "Super-packets of 64 KB through the tunnel: the kernel segments, and only where it must.",
    },
    "Posture": {"passed": "Names of checks.", "failed": "Names of checks."},
    "UpstreamNode": {
        "services": "What it serves, and at which port.",
        "root": "A directory beside the lab file that http and https serve.",
    },
    "Lan": {
        "name": "The network's name; NAME-lan by default.",
        "ipv4": "The IPv4 subnet; false: none. By default 10.k.0.0/24 for the k-th site.",
        "ipv6": "The IPv6 subnet; false: none. By default fd00:10:k::/64 for the k-th site.",
        "router": "The addresses of the site's router there; without any, the first free ones.",
        **LINKS,
    },
    "SiteHost": {
        "services": "What it serves: names, each at its usual port, or names with ports.",
        "addresses": "On the LAN; without any, one of each family is chosen.",
        "root": "A directory beside the lab file that http and https serve.",
    },
    "TunnelProbe": {
        "every_s": "Seconds from one echo request to the next.",
        "timeout_s": "Seconds until a request without an answer counts as lost.",
    },
    "NetworkSettings": {
        "routes": "What goes where; without any, the sites' own routes, and everything else leaves the proxy.",
        "egress": "The interface that its traffic leaves by; by default the tenant's.",
        "snat": "Source addresses outside; by default the tenant's.",
        "ports": "Source ports outside; by default the tenant's.",
    },
    "Route": {
        "prefix": "The destinations.",
        "via": "site:NAME, clients, kernel (out, unread) or stream (out, terminated).",
        "priority": "Of equal prefixes the lowest counts; a tunnel that is degraded or down adds to it.",
        "weight": "Of equal priorities each gets its share of flows.",
        "level": "stream: lift its flows to streams, though the next hop is a tunnel.",
    },
    "GreSiteNode": {
        **SITES,
        "key": "The GRE key (RFC 2890), the same at both ends.",
        "checksum": "Whether GRE packets carry a checksum.",
        "edge": "Who carries the proxy's end; by default as `tunnel` says.",
    },
    "GueSiteNode": {
        **SITES,
        "context": "Whether its packets say which tenant and site they are of; the kernel's never do.",
        "version": "Of the GUE packets that are sent: 0, or 1, which has no header.",
        "token": "What its packets must present; it stands in the context.",
    },
    "ProcessNode": {
        "command": "The program and its arguments; it runs in the directory of the lab file.",
        "ready": "What makes it ready: one of tcp, http and exec. Without it, that it runs.",
    },
    "Ready": {
        "tcp": "A port that accepts connections, on any address of the node.",
        "http": "A URL that is answered with 200 to 399: http://HOST:PORT/PATH.",
        "exec": "A program, run inside the node, that ends with exit code 0.",
        "timeout": "The longest that it may take: seconds, or 250ms, 5s.",
    },
    "HttpCheck": {
        "url": "What is asked for.",
        "method": "The request's method.",
        "headers": "Headers of the request.",
        "http2": "Whether it goes by HTTP/2.",
        "verify": "Whether the certificate must be for this name and of an authority that the node trusts, if none is "
        "said the lab's; lab-ca, tenant-ca: of that one.",
        "status": "The status of the answer.",
        "length": "Bytes of the answer's body.",
        "sha256": "The sum of the answer's body.",
    },
    "WebSocketCheck": {
        "url": "A WebSocket that echoes: ws:// or wss://.",
        "count": "Messages to send.",
        "size": "Bytes of each.",
        "http2": "Whether it is opened over HTTP/2 (RFC 8441).",
        "verify": "As of `http`.",
    },
    "UdpCheck": {"count": "Datagrams to send.", "loss": "The share that may be lost: 0 to 1, or 0% to 100%."},
    "PingCheck": {
        "count": "Echo requests to send.",
        "loss": "The share that may be lost: 0 to 1, or 0% to 100%.",
        "rtt": "The longest that an answer may take: 5ms, 1s.",
    },
    "DnsCheck": {
        "server": "The server that is asked; the lab's own by default.",
        "query": "The name.",
        "type": "The type of record.",
        "over": "udp or tcp.",
        "code": "The code of the answer.",
        "answers": "Values that must be among the answers.",
    },
    "ExecCheck": {
        "command": "The program and its arguments.",
        "exit_code": "How it must end.",
        "contains": "Text that it must print.",
        "matches": "A regular expression that must be found in what it prints.",
    },
    "FlowsCheck": {
        "where": "Filters of `oxyctl flows`.",
        "fields": "What the records must say: a value, several of which one must be met, or '>= 100', '~ ^10[.]'.",
        "at_least": "Minimum number of flows.",
        "at_most": "Maximum number of flows.",
        "since": "The oldest that count; those of this run by default.",
    },
    "MetricCheck": {
        "metric": "Its name in the proxy's metrics.",
        "value": "What it is compared with.",
        "op": "How it is compared.",
        "labels": "Only the samples with these labels.",
    },
    "ImpairCheck": {
        "link": "NODE:NETWORK, NODE:tunnel, or NETWORK: the links of all its nodes.",
        "clear": "Forget every impairment but those said here.",
        "timeout": "How long it may take.",
        **LINKS,
    },
    "PolicyCheck": {
        "policy": "What is in force from here on, as in a policy file.",
        "tenant": "Whose policy it replaces; without one, that of all tenants.",
        "revokes": "How many live flows must end by it.",
        "timeout": "It must be in force, and every live flow judged, within this time.",
    },
    "NodeCheck": {
        "do": "stop, start, restart, or kill: end it as a crash would.",
        "node": "The node, or several.",
        "timeout": "How long all that is to run again may take to be ready.",
    },
    "TunnelCheck": {
        "site": "The site whose tunnel it is.",
        "health": "What both ends must see, or one of several.",
        "by": "Who must carry the site's end.",
        "edge": "Who must carry the other end of a GRE tunnel.",
        "timeout": "How long to wait for it.",
    },
    "DroppedCheck": {
        "by": "What is sent.",
        "canary": "Where the same must arrive, before and after: otherwise nothing is believed.",
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
        if "description" in definition:  # Python 3.13 and later have taken the indentation out of docstrings already
            definition["description"] = inspect.cleandoc(definition["description"])
        for key, value in definition.get("properties", {}).items():
            _describe(model, key, value)
    _name_services(definitions)
    _allow_defaults(definitions)
    reference = {"$ref": schema["$ref"], "$defs": definitions}
    schema = {"$schema": DIALECT, "title": "oxyctl lab file", "$comment": COMMENT, **reference}
    plain: Json = msgspec.json.decode(msgspec.json.encode(schema))  # a default that is a tuple is a list to a reader
    return plain


def render(schema: Json) -> bytes:
    """As it is committed: two spaces, a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n"


def properties(schema: Json) -> Iterator[tuple[str, str, Json]]:
    """Every key: its model, its name, its schema."""
    for model, definition in schema["$defs"].items():
        for key, value in definition.get("properties", {}).items():
            yield model, key, value


def _describe(model: str, key: str, value: Json) -> None:
    """What stands in the model itself comes first."""
    own = SENTENCES.get(model, {}) | INSPECTION.get(model, {})
    sentence = own.get(key) or SENTENCES["*"].get(key)
    if sentence is not None:
        value.setdefault("description", sentence)
    if (examples := EXAMPLES.get(model, {}).get(key)) is not None:
        value.setdefault("examples", examples)


def _name_services(definitions: Json) -> None:
    """The names of services are known: an editor may offer them."""
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
    """What a kind of node requires may stand under `defaults:` instead, so that a node by itself requires its kind."""
    top: Json = definitions["LabFile"]["properties"]
    kinds: Json = top["nodes"]["additionalProperties"]
    for reference in kinds["discriminator"]["mapping"].values():
        definitions[reference.rpartition("/")[2]]["required"] = []
    kinds["required"] = ["kind"]
    if "defaults" in top:
        of_kinds = {kind: {"$ref": reference} for kind, reference in kinds["discriminator"]["mapping"].items()}
        top["defaults"] |= {"properties": of_kinds, "additionalProperties": False}
