"""Facts about a tunnel besides its packets: the context datagram, and the answer to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal

import msgspec
from msgspec import Meta

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    Extension = TypeVar("Extension", default=Any)  # an application's own data about tunnels and flows
else:
    from typing import TypeVar

    Extension = TypeVar("Extension")  # defaults are new in Python 3.13 (PEP 696)

OFFLOAD = "virtio-net"
MAX_CONTEXT_BYTES = 64 << 10

Mtu = Annotated[int, Meta(ge=576, le=65_535)]
Label = Annotated[str, Meta(max_length=256)]


class Group(msgspec.Struct, frozen=True, omit_defaults=True):
    """A group of users, with its identifier at the identity provider."""

    name: Label
    id: Label | None = None


class Posture(msgspec.Struct, frozen=True, omit_defaults=True):
    """Names of the checks of a device (disk encryption, firewall, ...) that have passed, and that have failed."""

    passed: Annotated[list[Label], Meta(max_length=256)] = []
    failed: Annotated[list[Label], Meta(max_length=256)] = []


class TunnelContext(msgspec.Struct, Generic[Extension], kw_only=True, omit_defaults=True):
    """The first datagram of a connected tunnel: its tenant, user, device and addresses. Unknown keys are ignored.

    `extension` is set by the application, in `packet_context` or `tunnel_open`, and never read from the datagram.
    """

    tenant: Label
    addresses: Annotated[list[Label], Meta(min_length=1, max_length=64)]
    token: Label | None = None
    user: Label | None = None
    device: Label | None = None
    groups: Annotated[list[Label | Group], Meta(max_length=1024)] = []  # of the user
    posture: Posture | None = None  # of the device
    network: Label | None = None  # one of the tenant's; by default `default`
    mtu: Mtu = 1280
    offload: Literal["virtio-net"] | None = None
    extension: Extension | None = None


class TunnelAnswer(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """The proxy's only answer: accepted with these parameters, or refused with a reason and closed."""

    ok: bool
    mtu: int | None = None
    offload: Literal["virtio-net"] | None = None
    error: str | None = None


def group_names(context: TunnelContext | None) -> tuple[str, ...]:
    """The names of the user's groups; empty if none are known."""
    return () if context is None else tuple(each if isinstance(each, str) else each.name for each in context.groups)


encode = msgspec.json.Encoder().encode
decode_answer = msgspec.json.Decoder(TunnelAnswer).decode
_decode = msgspec.json.Decoder(TunnelContext).decode


def decode_context(data: bytes) -> TunnelContext:
    """Decode the first datagram. msgspec.DecodeError: it is invalid."""
    context = _decode(data)
    context.extension = None
    return context


def checked(context: TunnelContext[Extension]) -> TunnelContext[Extension]:
    """A context made by an application, checked like a datagram. msgspec.ValidationError."""
    plain = msgspec.structs.replace(context, extension=None)
    msgspec.convert(msgspec.to_builtins(plain), TunnelContext)
    return context
