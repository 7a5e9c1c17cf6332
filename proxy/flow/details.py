"""Rare attributes of flows, kept in a separate object, so that other flows need no memory for them."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar, overload

from proxy.flow.record import Level, SSHRecord, TLSRecord, Totals

T = TypeVar("T")


class Details:
    """The rare attributes of one flow, which appear on the flow by a `Detail` of the same name."""

    __slots__ = (
        "client_payload", "client_tcp_ms", "detected_protocol", "extension", "last_totals", "origin_payload",
        "parent_id", "redirect", "spliced", "ssh", "tls", "virtual", "wanted_level",
    )  # fmt: skip

    def __init__(self) -> None:
        self.client_payload = self.origin_payload = 0  # bytes read from the sockets of a terminated flow
        self.spliced = 0  # the part of these that was spliced
        self.client_tcp_ms: float | None = None
        self.detected_protocol: str | None = None
        self.extension: Any = None  # the application's data about this flow, if it is not the tunnel's
        self.last_totals: Totals | None = None
        self.parent_id: str | None = None  # the flow whose mapping or connection led to this one
        self.redirect: tuple[bytes, int] | None = None  # actual destination, if not the requested one
        self.ssh: SSHRecord | None = None
        self.tls: TLSRecord | None = None
        self.virtual: Any = None  # its identity in the bridge while admitted, or its external address and port
        self.wanted_level: Level | None = None  # set by a verdict


NONE = Details()  # shared by all flows without details: never written


class Detailed(Protocol):
    """A flow."""

    details: Details


class Detail(Generic[T]):
    """A rare attribute as an attribute of the flow. The first value that differs from NONE's creates the Details.

    Each access is a call, so code that counts bytes uses the flow's `own_details` (0.1 us per read of a relay, not
    0.7).
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name, self._default = name, getattr(NONE, name)

    @overload
    def __get__(self, flow: None, owner: type) -> Detail[T]: ...

    @overload
    def __get__(self, flow: Detailed, owner: type) -> T: ...

    def __get__(self, flow: Detailed | None, owner: type) -> T | Detail[T]:
        if flow is None:
            return self
        value: T = getattr(flow.details, self._name)
        return value

    def __set__(self, flow: Detailed, value: T) -> None:
        if flow.details is not NONE or value is not self._default:
            setattr(own_details(flow), self._name, value)


def own_details(flow: Detailed) -> Details:
    """The flow's details, created if needed. The object stays the same for the flow's life."""
    if flow.details is NONE:
        flow.details = Details()
    return flow.details
