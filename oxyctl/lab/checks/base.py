"""What every check has in common: its name, its time, the nodes that it is tried from."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec import field

from oxyctl.nodes.base import Part
from proxy.settings import DocumentError, suggest

if TYPE_CHECKING:
    from oxyctl.lab.model import Lab

Duration = float | str  # seconds, or 250ms, 5s, 1m30s
Share = float | str  # 0 to 1, or 0% to 100%
Texts = str | list[str]
Complaint = Callable[..., DocumentError]  # complain(message, *place below the check, at_key=False)


class Check(Part, kw_only=True, frozen=True, tag_field="kind"):
    """Something that must be true. It is tried once, or with `retry_until` again and again for so long."""

    name: str | None = None
    timeout: Duration = 5  # of each attempt
    retry_until: Duration | None = None

    @property
    def kind(self) -> str:
        """The word in the lab file."""
        return str(self.__struct_config__.tag)

    @property
    def timeout_s(self) -> float:
        """Seconds."""
        return seconds(self.timeout)

    @property
    def sources(self) -> list[str]:
        """The nodes that it is tried from, each by itself; none for what is asked of a proxy."""
        return []

    def title(self) -> str:
        """Its name, or what it does in a few words."""
        return self.name or f"{self.kind} {self.summary()}"

    def summary(self) -> str:
        """What it does, in a few words."""
        raise NotImplementedError

    def validate(self, lab: Lab, complain: Complaint) -> None:
        """Raise what `complain` makes of the first thing that makes no sense."""
        for place in ("timeout", "retry_until"):
            if (value := getattr(self, place)) is not None:
                checked(complain, place, seconds, value)


class FromNode(Check, kw_only=True, frozen=True):
    """What is tried from inside a node, or from several."""

    source: Texts = field(name="from")

    @property
    def sources(self) -> list[str]:
        """As given."""
        return texts(self.source)

    def validate(self, lab: Lab, complain: Complaint) -> None:
        """The nodes exist."""
        super().validate(lab, complain)
        for index, name in enumerate(self.sources):
            place = ("from",) if isinstance(self.source, str) else ("from", index)
            check_node(lab, complain, name, *place)
        if not self.sources:
            raise complain("at least one node is required", "from")


def seconds(value: Duration) -> float:
    """Seconds of `2.5` or `"250ms"`; ValueError."""
    from proxy.control.schema import parse_duration

    result = parse_duration(value) if isinstance(value, str) else value
    if result <= 0:
        raise ValueError(f"not a duration: {value!r} (more than 0 is needed)")
    return result


def share(value: Share) -> float:
    """0 to 1 of `0.01` or `"1%"`; ValueError."""
    try:
        result = (
            float(value.removesuffix("%")) / (100 if value.endswith("%") else 1) if isinstance(value, str) else value
        )
    except ValueError:
        result = -1
    if not 0 <= result <= 1:
        raise ValueError(f"not a share: {value!r} (write 0.01 or 1%)")
    return result


def texts(value: Texts) -> list[str]:
    """One or many, as many."""
    return [value] if isinstance(value, str) else value


def checked(complain: Complaint, place: str, parse: Callable[[Any], Any], value: Any) -> Any:
    """What `parse` makes of `value`, which stands at `place`; raises what `complain` makes of its ValueError."""
    try:
        return parse(value)
    except (ValueError, re.error) as error:
        raise complain(str(error), place) from None


def check_node(lab: Lab, complain: Complaint, name: str, *place: str | int) -> None:
    """`name` is a node."""
    if name not in lab.nodes:
        raise complain(f"unknown node '{name}'{suggest(name, lab.nodes)}", *place)


def check_host(lab: Lab, complain: Complaint, host: str, place: str) -> None:
    """A word without dots or colons can only be a node."""
    if not re.search(r"[.:]", host) and host != "localhost":
        check_node(lab, complain, host, place)
