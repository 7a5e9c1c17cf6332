"""Attributes that few flows have: kept beside the flow, so that the others hold no room for them."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar, overload

from proxy.flow.record import Level, SSHRecord, TLSRecord, Totals

T = TypeVar("T")


class Details:
    """What a flow may have besides. Each is of the flow that has it by its attribute of the same name."""

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


NONE = Details()  # of those that have none: it is only read


class Detailed(Protocol):
    """A flow."""

    details: Details


class Seldom(Generic[T]):
    """One such attribute, as if it were the flow's own. Room is made when the first is set that differs from NONE's."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name, self._default = name, getattr(NONE, name)

    @overload
    def __get__(self, flow: None, owner: type) -> Seldom[T]: ...

    @overload
    def __get__(self, flow: Detailed, owner: type) -> T: ...

    def __get__(self, flow: Detailed | None, owner: type) -> T | Seldom[T]:
        if flow is None:
            return self
        value: T = getattr(flow.details, self._name)
        return value

    def __set__(self, flow: Detailed, value: T) -> None:
        if flow.details is NONE:
            if value is self._default:
                return
            flow.details = Details()
        setattr(flow.details, self._name, value)
