"""What can go wrong: exceptions for connections and files, drop reasons for packets."""

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


class DropReason(enum.StrEnum):
    """Why a packet went no further. A closed set: every drop has one, and every one is counted."""

    EMPTY = "empty"  # zero-length datagram
    OVERSIZE = "oversize"  # longer than any IP packet
    TRUNCATED = "truncated"  # shorter than its headers say
    BAD_VERSION = "bad_version"  # neither IPv4 nor IPv6, and no control datagram
    BAD_HEADER = "bad_header"  # lengths or extension headers that contradict each other
    BAD_IP_CHECKSUM = "bad_ip_checksum"
    BAD_L4_CHECKSUM = "bad_l4_checksum"
    BAD_OFFLOAD = "bad_offload"  # a virtio-net header that the kernel refused or that lies
    BAD_CONTROL = "bad_control"  # control datagram after the first, or one that does not parse
    SPOOFED_SOURCE = "spoofed_source"
    BAD_ADDRESS = "bad_address"  # multicast, broadcast, loopback, unspecified or LAND
    TTL_EXPIRED = "ttl_expired"
    PROTOCOL_UNSUPPORTED = "protocol_unsupported"
    ICMP_UNSUPPORTED = "icmp_unsupported"  # ICMP that is no echo request and quotes no flow of ours
    NOT_SYN = "not_syn"  # TCP without a flow: answered with RST
    HELD = "held"  # a repetition while the first packet waits for its verdict or its origin
    STRAY = "stray"  # for a flow that has ended
    FRAGMENT_OVERLAP = "fragment_overlap"
    FRAGMENT_LIMIT = "fragment_limit"
    FRAGMENT_TIMEOUT = "fragment_timeout"
    LIMIT_FLOWS = "limit_flows"
    LIMIT_RATE = "limit_rate"
    DENIED = "denied"
    PORTS_EXHAUSTED = "ports_exhausted"
    NO_DESCRIPTORS = "no_descriptors"
    TUNNEL_FULL = "tunnel_full"  # the client does not read, and its bounded queue is full
    TUNNEL_REFUSED = "tunnel_refused"  # a client's context was not accepted
    TUNNEL_CLOSED = "tunnel_closed"
    ORIGIN_FULL = "origin_full"  # the socket to the origin would block (UDP, ICMP)
    SOCKET_OVERFLOW = "socket_overflow"  # the origin sent faster than we read (UDP, ICMP)
    ORIGIN_ERROR = "origin_error"
    TOO_BIG = "too_big"
    PROXY_ERROR = "proxy_error"  # a bug of ours; the log has it
    RATE_LIMITED = "rate_limited"  # an ICMP error that was not sent
    KERNEL_IP = "kernel_ip"  # the private namespace's kernel dropped it: IP header errors
    KERNEL_TCP = "kernel_tcp"  # the same for TCP checksums and lengths
