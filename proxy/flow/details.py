"""Attributes that few flows have: kept beside the flow, so that the others hold no room for them."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar, overload

from proxy.flow.record import Level, SSHRecord, TLSRecord, Totals

T = TypeVar("T")


class Details:
    """These attributes of one flow. The flow has each of them as its own, by a `Detail` of the same name."""

    __slots__ = (
        "client_payload", "client_tcp_ms", "detected_protocol", "extension", "last_totals", "origin_payload",
        "parent_id", "redirect", "spliced", "ssh", "tls", "virtual", "wanted_level",
    )  # fmt: skip

    def __init__(self) -> None:
        self.client_payload = self.origin_payload = 0  # bytes that were read of a terminated flow
        self.spliced = 0  # of these, those that never came into user space
        self.client_tcp_ms: float | None = None
        self.detected_protocol: str | None = None
        self.extension: Any = None  # what the application keeps beside this flow, when it is not its tunnel's
        self.last_totals: Totals | None = None
        self.parent_id: str | None = None  # of the flow that made way for this one
        self.redirect: tuple[bytes, int] | None = None  # address and port that it goes to, not those it asked for
        self.ssh: SSHRecord | None = None
        self.tls: TLSRecord | None = None
        self.virtual: Any = None  # what the bridge knows it by, while it is admitted; or who it is outside
        self.wanted_level: Level | None = None  # how high a verdict lifts it


NONE = Details()  # shared by all flows that have none: only read


class Detailed(Protocol):
    """A flow."""

    details: Details


class Detail(Generic[T]):
    """One such attribute, as if it were the flow's own. Room is made by the first value that differs from NONE's.

    Each access is a call: whatever counts bytes uses the flow's `own_details` (0.1 us a read of a relay, not 0.7).
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
    """The flow's details, made if it has none yet; they stay the same object for its life."""
    if flow.details is NONE:
        flow.details = Details()
    return flow.details
