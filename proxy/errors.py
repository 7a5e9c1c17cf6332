"""Errors: exceptions for connections and files, drop reasons for packets."""

from __future__ import annotations

import enum
from typing import Literal

Side = Literal["client", "origin", "proxy"]


class ProxyError(Exception):
    """A failure that ends one flow or one tunnel. `OSError` is translated into it once, at the edge."""

    def __init__(self, message: str, *, side: Side = "proxy", retryable: bool = False) -> None:
        super().__init__(message)
        self.side = side
        self.retryable = retryable

    def because(self, cause: BaseException | None) -> ProxyError:
        """The error with `cause`, as `raise ... from` would set it, for errors that are passed on and not raised."""
        self.__cause__ = cause
        return self


class DropReason(enum.StrEnum):
    """The reason why a packet was dropped. A closed set: every drop has one, and is counted."""

    EMPTY = "empty"  # zero-length datagram
    OVERSIZE = "oversize"  # longer than any IP packet
    TRUNCATED = "truncated"  # shorter than its headers say
    BAD_VERSION = "bad_version"  # neither IPv4 nor IPv6, and no control datagram
    BAD_HEADER = "bad_header"  # lengths or extension headers that contradict each other
    BAD_IP_CHECKSUM = "bad_ip_checksum"
    BAD_L4_CHECKSUM = "bad_l4_checksum"
    BAD_OFFLOAD = "bad_offload"  # a virtio-net header that contradicts the packet or that the kernel refused
    BAD_CONTROL = "bad_control"  # control datagram after the first, or one that does not parse
    SPOOFED_SOURCE = "spoofed_source"
    BAD_ADDRESS = "bad_address"  # multicast, broadcast, loopback, unspecified or LAND
    TTL_EXPIRED = "ttl_expired"
    PROTOCOL_UNSUPPORTED = "protocol_unsupported"
    ICMP_UNSUPPORTED = "icmp_unsupported"  # ICMP that is neither an echo request nor an error about a known flow
    NOT_SYN = "not_syn"  # TCP without a flow: answered with RST
    HELD = "held"  # a retransmission while the first packet waits for its verdict or its origin
    STRAY = "stray"  # for a flow that has ended
    FRAGMENT_OVERLAP = "fragment_overlap"
    FRAGMENT_LIMIT = "fragment_limit"
    FRAGMENT_TIMEOUT = "fragment_timeout"
    LIMIT_FLOWS = "limit_flows"
    LIMIT_RATE = "limit_rate"
    LIMIT_BYTES = "limit_bytes"  # a datagram beyond a rule's `bytes_per_s`
    DENIED = "denied"
    PORTS_EXHAUSTED = "ports_exhausted"
    NO_DESCRIPTORS = "no_descriptors"
    TUNNEL_FULL = "tunnel_full"  # the client does not read, and its bounded queue is full
    TUNNEL_REFUSED = "tunnel_refused"  # a client's context was not accepted
    TUNNEL_CLOSED = "tunnel_closed"
    ORIGIN_FULL = "origin_full"  # the socket to the origin would block (UDP, ICMP)
    SOCKET_OVERFLOW = "socket_overflow"  # the origin sent faster than we read (UDP, ICMP)
    UNSOLICITED = "unsolicited"  # a datagram from a peer to which the client's endpoint has not written
    ORIGIN_ERROR = "origin_error"
    TOO_BIG = "too_big"
    PROXY_ERROR = "proxy_error"  # a bug in the proxy; see the log
    RATE_LIMITED = "rate_limited"  # an ICMP error that was not sent
    NO_ROUTE = "no_route"  # the network has routes, and none for this destination
    NO_NEXT_HOP = "no_next_hop"  # no tunnel of the route is open, or no client has the address
    CONNTRACK_FULL = "conntrack_full"  # the kernel's connection tracking table is full
    CONNTRACK_INVALID = "conntrack_invalid"  # not of a connection that conntrack can track: it would leave untranslated
    FLOW_COLLISION = "flow_collision"  # another flow has these addresses and ports in the outgoing tunnel
    PEER_UNREACHABLE = "peer_unreachable"  # the outer network refused a packet to a site
    GUE_TRUNCATED = "gue_truncated"  # the header, or the packet after it, is incomplete
    GUE_VERSION = "gue_version"  # neither 0 nor 1
    GUE_CONTROL = "gue_control"  # a control message
    GUE_FLAGS = "gue_flags"  # a flag that is unknown or was never requested
    GUE_NO_NEXT_HEADER = "gue_no_next_header"  # protocol 59: the payload is not to be parsed
    GUE_PROTOCOL = "gue_protocol"  # neither IPv4 nor IPv6 inside
    GUE_INNER = "gue_inner"  # version 0 announced another IP version than the packet has
    GUE_V1_INNER = "gue_v1_inner"  # version 1 before a packet that is neither IPv4 nor IPv6
    CONTEXT_VERSION = "context_version"  # of a GUE context: unknown
    CONTEXT_TRUNCATED = "context_truncated"  # a field extends beyond its end
    CONTEXT_REPEATED = "context_repeated"  # the same field twice
    CONTEXT_BAD_FIELD = "context_bad_field"  # a number that is not four bytes long
    CONTEXT_MISSING = "context_missing"  # from a site that must send one
    FOREIGN_TENANT = "foreign_tenant"  # a context that names another tenant or site than the peer's
    BAD_TOKEN = "bad_token"
    UNKNOWN_PEER = "unknown_peer"  # no site has this outer address
    GRE_TRUNCATED = "gre_truncated"  # shorter than its flags say
    GRE_VERSION = "gre_version"  # PPTP's, or unknown
    GRE_ROUTING = "gre_routing"  # source routes and other fields that RFC 2784 has removed
    GRE_CHECKSUM = "gre_checksum"
    GRE_PROTOCOL = "gre_protocol"  # neither IPv4 nor IPv6 inside
    GRE_INNER = "gre_inner"  # empty, or another IP version than announced
    GRE_KEY = "gre_key"  # not the tunnel's
    GRE_SEQUENCE = "gre_sequence"  # out of order
    TUNNEL_LOOP = "tunnel_loop"  # a tunnel's packet for the tunnel's own end, found inside the tunnel
    ECN_NOT_CAPABLE = "ecn_not_capable"  # congestion mark on a packet whose sender lacks ECN (RFC 6040 4.2)
    KERNEL_IP = "kernel_ip"  # the private namespace's kernel dropped it: IP header errors
    KERNEL_TCP = "kernel_tcp"  # the same for TCP checksums and lengths
