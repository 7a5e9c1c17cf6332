"""The nftables table of the kernel off-ramp, as text: it marks our packets by their way, and translates them.

                 raw -300           conntrack   mangle -150          forward             postrouting
    oxkN (TUN)   zone of the way               marks of the way      invalid: dropped    translated
    p0 (on-ramp) decided? zone, mark           marks of the way      ends are logged     translated
                 else untracked, to oxiN
    outside                                    mark of its connection  -> table of the way -> oxkN or p0

A *way* is one of our devices with the packets that leave and return by it. Its mark is `mark | index`; packets on their
way out also have `OUTWARD`, so that the kernel's ICMP errors about them (it reflects the mark) are routed back.

A *site* is an interface of an on-ramp that is not an uplink. Between sites of one network packets keep their addresses:
such a connection has the network's zone in both directions, and replies pass like its other packets. Nothing passes to
a site of another network.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

import msgspec

from proxy.kernel.decided import ENDED_S, FAMILIES, decided, declarations, inside, key, reply_key, update_rules
from proxy.kernel.nft_text import nft_chain, nft_map, nft_set, nft_translations
from proxy.settings.egress import Egress
from proxy.settings.model import KernelOffRamp, Timeouts

OUTWARD = 0x8000  # in marks of packets that leave
ON_RAMP = 0x4000  # in indexes of ways whose clients are visible to the kernel
SITES = 0x2000  # in marks for look-ups of a network's sites, which belong to no way
LATE = ON_RAMP | SITES  # in marks of packets for which conntrack alone knows whether they were decided
MAX_WAYS = 0x1FFF
ASKED_SIZE, ASKED_S = 200_000, 3600  # external ports that belong to clients' UDP endpoints
ALIVE_S = 3  # after the last keepalive message there is nobody for packets to come up to; see `_orphans`
SNAP_BYTES = 128  # enough for the headers
LOGGED_AT_ONCE = 32  # at most, of these packets: the kernel delivers 10 ms after the first
TO_THIS_HOST = "fib daddr type { local, broadcast, multicast, anycast }"
REVOKING_TTL = 1  # TTL of packets, written to an on-ramp's device, that only remove their flow from the decided ones
FLUSH_PROTOCOL = 254  # for experiments (RFC 3692); messages to on-ramps' devices that flush the packet log
LEASE_PROTOCOL = 253  # for experiments as well; the proxy's keepalive messages to its devices


class Way(msgspec.Struct, frozen=True):
    """One of our devices in the namespace, and how its packets are to appear outside."""

    index: int
    device: str
    zone: int  # conntrack zone of the client's direction; 0: none of its own
    egress: Egress = Egress()
    interfaces: tuple[str, ...] = ()  # the on-ramp's interfaces
    back: str | None = None  # the device for our own replies to its clients
    dscp: int | None = None  # set on all its packets, both ways; None: unchanged
    sites: tuple[str, ...] = ()  # those of `interfaces` that are sites

    @property
    def is_on_ramp(self) -> bool:
        return bool(self.index & ON_RAMP)

    @property
    def place(self) -> int:
        """The number of the on-ramp, from 1."""
        return self.index & ~ON_RAMP


class Ruleset:
    """The table of one proxy instance."""

    def __init__(self, settings: KernelOffRamp, timeouts: Timeouts, *, ends_group: int, asked_group: int) -> None:
        """NFLOG groups: `ends_group` for starts and ends of flows, `asked_group` for unsolicited datagrams."""
        self.name = f"oxy_{settings.instance}"
        self._settings, self._timeouts = settings, timeouts
        self._ends, self._asked = ends_group, asked_group
        self._ours = f"& {0xFFFF_8000:#x} == {settings.mark:#x}"
        self._leaving = f"& {0xFFFF_8000:#x} == {settings.mark | OUTWARD:#x}"

    def mark(self, way: Way) -> int:
        """The mark of the way's connections, and of packets that return."""
        return self._settings.mark | way.index

    def outward_mark(self, way: Way) -> int:
        """The mark of packets that leave."""
        return self.mark(way) | OUTWARD

    def late_mark(self, way: Way) -> int:
        """The mark of packets from the on-ramp that no proxy looks at, until conntrack has found their flow; and of our
        own packets to its clients."""
        return self._settings.mark | LATE | way.place

    def sites_mark(self, zone: int) -> int:
        """The mark of look-ups for the site that has an address, in the network with this zone."""
        return self._settings.mark | SITES | (zone - self._settings.first_zone)

    def text(
        self,
        ways: Sequence[Way],
        *,
        helpers: Sequence[str] = (),
        has_timeouts: bool = True,
        closed: Collection[str] = (),
        fast: Collection[str] = (),
    ) -> str:
        """The whole table, as a transaction that replaces the old one. `helpers`: conntrack helpers that the kernel
        has. `closed`: interfaces by which no client's packet may leave. `fast`: interfaces of the flowtable, if any."""
        lines = [f"table inet {self.name}", f"delete table inet {self.name}", f"table inet {self.name} {{"]
        lines += self._maps(ways, closed)
        lines += self._objects(helpers, has_timeouts)
        lines += self._raw(ways, helpers)
        lines += self._mangle(ways, helpers, has_timeouts)
        if fast:
            names = ", ".join(f'"{name}"' for name in sorted(fast))
            lines.append(f"flowtable fast {{ hook ingress priority filter; devices = {{ {names} }}; counter; }}")
        lines += self._filters(ways, closed, fast)
        lines += self._translation(ways)
        return "\n".join([*lines, "}", ""])

    def removal(self) -> str:
        """The transaction that removes the table, whether or not it exists."""
        return f"table inet {self.name}\ndelete table inet {self.name}\n"

    def _maps(self, ways: Sequence[Way], closed: Collection[str]) -> Iterator[str]:
        names = [(name, way) for way in ways for name in (way.device, *way.interfaces)]
        yield nft_map("zones", "typeof iifname : ct zone", ((n, way.zone) for n, way in names if way.zone))
        yield nft_map("marks", "type ifname : mark", ((n, f"{self.mark(way):#x}") for n, way in names))
        yield nft_map("outward", "type ifname : mark", ((n, f"{self.outward_mark(way):#x}") for n, way in names))
        yield nft_set("tuns", "type ifname", (way.device for way in ways))
        yield nft_set("onramps", "type ifname", (name for way in ways for name in way.interfaces))
        sites = [(way.zone, name) for way in ways for name in way.sites]
        yield nft_set("sites", "type ifname", dict.fromkeys([*(name for _, name in sites), *closed]))
        own = ", ".join(f'{zone} . "{name}"' for zone, name in dict.fromkeys(sites))
        yield f"set own_sites {{ typeof ct zone . oifname; {f'elements = {{ {own} }};' if own else ''} }}"
        for lease in ("lease", "alive"):
            yield f"set {lease} {{ type nf_proto; flags dynamic,timeout; }}"
        for version, _ in FAMILIES:
            for way in ways:
                if way.is_on_ramp:
                    yield from declarations(version, way.place)
            asked = f"type ipv{version}_addr . inet_service; flags dynamic,timeout; size {ASKED_SIZE};"
            yield f"set asked{version} {{ {asked} timeout {ASKED_S}s; }}"
        for counter in ("invalid", "to_host", "unsolicited", "foreign", "isolated"):
            yield f"counter {counter} {{ }}"

    def _objects(self, helpers: Iterable[str], has_timeouts: bool) -> Iterator[str]:
        for helper in helpers:
            yield f'ct helper {helper} {{ type "{helper}" protocol {"udp" if helper == "tftp" else "tcp"}; }}'
        if not has_timeouts:
            return
        times = self._timeouts
        tcp = {
            "syn_sent": times.connect_s, "syn_recv": times.connect_s, "established": times.tcp_idle_s,
            "fin_wait": times.tcp_half_closed_s, "close_wait": times.tcp_half_closed_s, "last_ack": 30, "time_wait": 30,
        }  # fmt: skip
        udp = {"unreplied": times.udp_unreplied_s, "replied": times.udp_idle_s}
        dns = {"unreplied": times.udp_unreplied_s, "replied": times.dns_idle_s}
        for version, family in FAMILIES:
            for name, protocol, policy in (("tcp", "tcp", tcp), ("udp", "udp", udp), ("dns", "udp", dns)):
                values = ", ".join(f"{state}: {max(1, round(value + 2))}" for state, value in policy.items())
                kind = f"protocol {protocol}; l3proto {family};"
                yield f"ct timeout {name}{version} {{ {kind} policy = {{ {values} }}; }}"

    def _raw(self, ways: Sequence[Way], helpers: Sequence[str]) -> Iterator[str]:
        yield "chain up {"  # to the proxy: untracked so far; packets to this host are not ours
        yield "meta mark set 0"
        yield f"{TO_THIS_HOST} accept"
        yield "notrack accept"
        yield "}"
        for way in ways:
            if way.is_on_ramp:
                yield from self._on_ramp(way)
        yield from self._reach(ways)
        yield from nft_chain("from_us", "ct original zone set iifname map @zones")
        for way in ways:
            if way.is_on_ramp:
                yield f"chain from_{way.place} {{"
                yield f"jump revoke_{way.place}"
                lease = f"update @lease {{ meta nfproto timeout {self._lease_s()}s }}"
                yield f"meta l4proto {LEASE_PROTOCOL} {lease} update @alive {{ meta nfproto timeout {ALIVE_S}s }} drop"
                yield f"meta l4proto {FLUSH_PROTOCOL} log group {self._ends} snaplen 20 queue-threshold 1 drop"
                if _sites_of(way.zone, ways):
                    yield f"jump reach_{way.place}"
                yield f"ct original zone set {way.zone}"
                yield "}"
        yield "chain arriving {"
        yield "type filter hook prerouting priority raw; policy accept;"
        if ways:
            yield f"iifname vmap {{ {', '.join(_where_from(ways))} }}"  # one look-up per packet
        zones = {way.zone for way in ways}
        if helpers and len(zones) == 1:  # an expectation is looked up in the zone of its parent connection
            yield f"tcp sport 20 ct original zone set {zones.pop()}"
        yield "}"

    def _on_ramp(self, way: Way) -> Iterator[str]:
        """Packets from its clients: every SYN must be decided; the rest of a decided flow bypasses the proxy."""
        for chain, direction in (("decided", "original "), ("inside", "")):
            mark, zone = f"meta mark set {self.outward_mark(way):#x}", f"ct {direction}zone set {way.zone}"
            yield from nft_chain(f"{chain}_{way.place}", mark, zone, "accept")
        late, zone = f"meta mark set {self.late_mark(way):#x}", f"ct zone set {way.zone}"
        yield from nft_chain(f"back_{way.place}", late, "notrack accept")  # so that the kernel's errors come up
        yield from nft_chain(f"late_{way.place}", "meta mark set 0", f"{TO_THIS_HOST} accept", late, zone, "accept")
        yield f"chain onramp_{way.place} {{"
        yield "tcp flags & (syn | ack) == syn goto up"
        yield "meta nfproto != @lease goto up"
        for flows, then in ((decided, "decided"), (inside, "inside")):
            for version, family in FAMILIES:
                known = f"meta nfproto ipv{version} {key(family)} @{flows(version, way.place)}"
                ending = f"update @{flows(version, way.place)} {{ {key(family)} timeout {ENDED_S}s }}"
                yield f"tcp flags & (fin | rst) != 0 {known} {ending} goto {then}_{way.place}"
                yield f"{known} goto {then}_{way.place}"
        yield f"meta nfproto != @alive goto late_{way.place}"
        yield "goto up"
        yield "}"
        yield f"chain revoke_{way.place} {{"  # see REVOKING_TTL
        for version, family in FAMILIES:
            last = f"ip ttl {REVOKING_TTL}" if version == 4 else f"ip6 hoplimit {REVOKING_TTL}"
            for flows in (decided, inside):
                yield f"{last} delete @{flows(version, way.place)} {{ {key(family)} }}"
            yield f"{last} drop"
        yield "}"

    def _reach(self, ways: Sequence[Way]) -> Iterator[str]:
        """Packets that we write to an on-ramp's device for a site of its network: the kernel carries the rest of the
        flow, in both directions."""
        on_ramps = [way for way in ways if way.is_on_ramp]
        for way in on_ramps:
            yield f"chain answers_{way.place} {{"
            yield from update_rules(way.place, inside, reply_key, self._timeouts)
            yield "}"
        for way in on_ramps:
            places = ", ".join(f'"{name}" : jump answers_{place}' for name, place in _sites_of(way.zone, ways))
            if places:
                yield f"chain reach_{way.place} {{"
                yield f"meta mark set {self.sites_mark(way.zone):#x}"
                names = ", ".join(f'"{name}"' for name, _ in _sites_of(way.zone, ways))
                yield f"fib daddr . mark oifname != {{ {names} }} return"
                yield "ct zone set iifname map @zones"
                yield from update_rules(way.place, inside, key, self._timeouts)
                yield f"fib daddr . mark oifname vmap {{ {places} }}"
                yield "accept"
                yield "}"

    def _lease_s(self) -> float:
        return max(1, round(self._settings.orphans_s)) if self._settings.orphans == "continue" else 3

    def _mangle(self, ways: Sequence[Way], helpers: Sequence[str], has_timeouts: bool) -> Iterator[str]:
        on_ramps = [way for way in ways if way.is_on_ramp]
        yield "chain opening {"  # the first packet of a connection
        yield "ct mark set iifname map @marks"
        if has_timeouts:
            for version in (4, 6):
                yield f'meta nfproto ipv{version} meta l4proto tcp ct timeout set "tcp{version}"'
                yield f'meta nfproto ipv{version} udp dport != 53 ct timeout set "udp{version}"'
                yield f'meta nfproto ipv{version} udp dport 53 ct timeout set "dns{version}"'
        # events are costly, so only DESTROY, and only where nothing else reports the end
        yield f"meta mark & {ON_RAMP:#x} != 0 ct event set destroy"
        yield f"meta mark & {ON_RAMP:#x} == 0 ct event set label"
        for helper, port in (("ftp", "tcp dport 21"),):
            if helper in helpers:
                yield f'{port} ct helper set "{helper}"'
        yield "accept"
        yield "}"
        for way in on_ramps:
            yield from self._decide(way)
            yield from self._orphans(way)
        yield "chain ours {"
        yield "meta mark set iifname map @outward"
        if on_ramps:
            jumps = ", ".join(f'"{way.device}" : jump decide_{way.place}' for way in on_ramps)
            yield f"iifname vmap {{ {jumps} }}"
        yield f"ct mark {self._ours} accept"
        yield "goto opening"
        yield "}"
        yield "chain marking {"  # most packets traverse three rules here
        yield "type filter hook prerouting priority mangle; policy accept;"
        yield f"ct mark {self._ours} meta mark {self._leaving} accept"  # of a decided flow
        yield "iifname @tuns goto ours"
        if on_ramps:
            late = ", ".join(f"{self.late_mark(way):#x} : goto orphans_{way.place}" for way in on_ramps)
            yield f"iifname @onramps meta mark vmap {{ {late} }}"
        # the reply direction of a connection, and its expected connections
        yield f"ct mark {self._ours} meta mark set ct mark accept"
        yield f"meta mark {self._leaving} goto opening"
        for version, family in FAMILIES:
            asked = f'log group {self._asked} snaplen 65535 queue-threshold 1 counter name "unsolicited" drop'
            yield f"ct state new {family} daddr . udp dport @asked{version} {asked}"
        yield "}"

    def _decide(self, way: Way) -> Iterator[str]:
        """Packets that we write to its device are decided: the kernel carries the rest of the flow."""
        yield f"chain decide_{way.place} {{"
        yield "ct reply zone != 0 return"  # to a site: added by `_reach`
        yield from update_rules(way.place, decided, key, self._timeouts)
        yield "}"

    def _orphans(self, way: Way) -> Iterator[str]:
        """While no proxy is running, flows that conntrack knows continue, even if no longer in the set of decided ones;
        anything else is unreachable."""
        leaving = f"meta mark set {self.outward_mark(way):#x} accept"
        yield f"chain orphans_{way.place} {{"
        yield f"ct mark {self.mark(way):#x} ct direction original {leaving}"
        yield f"ct mark {self._ours} ct direction reply {leaving}"  # from another site of the network: in its zone
        yield "meta mark set 0 accept"
        yield "}"

    def _filters(self, ways: Sequence[Way], closed: Collection[str], fast: Collection[str]) -> Iterator[str]:
        yield "chain to_host {"  # clients reach this host's own addresses by sockets, never by packets
        yield "type filter hook input priority filter - 10; policy accept;"
        yield 'iifname @tuns counter name "to_host" drop'
        yield "}"
        if any(way.is_on_ramp for way in ways):
            log = f"log group {self._ends} snaplen {SNAP_BYTES} queue-threshold {LOGGED_AT_ONCE}"
            begins = f"tcp flags & (syn | ack) == syn | ack {log} accept"
            ends = f"tcp flags & (fin | rst) != 0 {log} accept"
            errors = f"meta l4proto {{ icmp, ipv6-icmp }} ct state related {log}"
            # a flowtable leaves SYN, FIN and RST to these rules, so that they are logged in any case
            yield from nft_chain(
                "logged", *self._carried(ways, fast), "tcp flags & (fin | syn | rst) == 0 accept", begins, ends, errors
            )
        yield "chain passing {"
        yield "type filter hook forward priority filter - 10; policy accept;"
        # rare cases first: sets of names are looked up by hash
        yield 'ct state invalid iifname @tuns counter name "invalid" drop'  # it would leave untranslated
        if any(way.is_on_ramp for way in ways):
            yield f'ct state invalid meta mark {self._leaving} iifname @onramps counter name "invalid" drop'
        if closed or any(way.sites for way in ways):
            to_others = f"meta mark {self._leaving} oifname @sites ct zone . oifname != @own_sites"
            yield f'{to_others} counter name "isolated" drop'
        foreign = f"meta mark & {0xFFFF_0000:#x} != {self._settings.mark:#x}"
        yield f'ct state new {foreign} oifname @tuns counter name "foreign" drop'
        for way in ways:
            if way.dscp is not None:
                both = f"meta mark {{ {self.mark(way):#x}, {self.outward_mark(way):#x} }}"
                yield f"{both} ip dscp set {way.dscp}"
                yield f"{both} ip6 dscp set {way.dscp}"
        if any(way.is_on_ramp for way in ways):
            own = f"meta mark & {0xFFFF_0000 | ON_RAMP:#x} == {self._settings.mark | ON_RAMP:#x}"
            yield f"{own} goto logged"
        yield "}"

    def _carried(self, ways: Sequence[Way], fast: Collection[str]) -> Iterator[str]:
        """The rule that enters flows in the flowtable. Their packets would keep their DSCP."""
        kept = ", ".join(f"{self.outward_mark(way):#x}" for way in ways if way.is_on_ramp and way.dscp is not None)
        if fast:
            others = f"meta mark != {{ {kept} }} " if kept else ""
            yield f"{others}ct state established ct direction original flow add @fast"

    def _translation(self, ways: Sequence[Way]) -> Iterator[str]:
        special = [way for way in ways if way.egress.ipv4 or way.egress.ipv6 or way.egress.ports]
        for way in special:
            yield f"chain translate_{way.index} {{"
            yield from nft_translations(way.egress)
            yield "}"
        yield "chain leaving {"
        yield "type nat hook postrouting priority srcnat; policy accept;"
        yield f"ct mark & {0xFFFF_8000:#x} != {self._settings.mark:#x} accept"
        between_sites = f"meta mark & {ON_RAMP:#x} != 0 ct zone . oifname @own_sites accept"
        if any(way.sites for way in ways):
            yield between_sites
        if special:
            jumps = ", ".join(f"{self.mark(way):#x} : jump translate_{way.index}" for way in special)
            yield f"ct mark vmap {{ {jumps} }}"
        yield "masquerade"
        yield "}"
        yield "chain translated {"
        yield "type filter hook postrouting priority srcnat + 10; policy accept;"
        yield "ct state != new accept"
        if any(way.sites for way in ways):
            yield between_sites
        for version, family in FAMILIES:
            place = f"{family} saddr . udp sport"
            new = f"meta mark {self._leaving} meta nfproto ipv{version} {place}"
            yield f"{new} != @asked{version} update @asked{version} {{ {place} }}"
        yield "}"


def _where_from(ways: Sequence[Way]) -> Iterator[str]:
    """Elements that map each interface to the chain for packets from it."""
    for way in ways:
        yield f'"{way.device}" : goto {f"from_{way.place}" if way.is_on_ramp else "from_us"}'
        if way.back is not None:
            yield f'"{way.back}" : goto back_{way.place}'
        yield from (f'"{name}" : goto onramp_{way.place}' for name in way.interfaces)


def _sites_of(zone: int, ways: Sequence[Way]) -> list[tuple[str, int]]:
    """The sites of the network in this zone, with the numbers of their on-ramps."""
    return [(name, way.place) for way in ways if way.zone == zone for name in way.sites]
