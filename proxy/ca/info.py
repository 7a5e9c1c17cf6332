"""What is told of a tenant's authority: everything but its key."""

from __future__ import annotations

import msgspec


class Certificate(msgspec.Struct, kw_only=True, frozen=True):
    """One certificate of an authority."""

    subject: str  # RFC 4514
    fingerprint: str  # SHA-256, as browsers show it
    not_before: int  # Unix seconds
    not_after: int
    pem: str
    permitted: list[str] = []  # all that it may sign for; empty: anything


class AuthorityInfo(msgspec.Struct, kw_only=True, frozen=True):
    """What the clients of a tenant have to trust, and for how long."""

    tenant: str
    is_imported: bool = False
    root: Certificate  # the topmost that is known: what clients trust
    issuer: Certificate  # what leaves are signed by: the root itself, or one below it
    next: Certificate | None = None  # of a rotation that is under way
    next_from: int | None = None  # when it takes over, Unix seconds
    previous: Certificate | None = None  # before the last rotation

    @property
    def bundle(self) -> str:
        """PEM of all that clients should trust now: also what takes over soon."""
        return self.root.pem + (self.next.pem if self.next is not None else "")


class Rotation(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/ca/rotate`: a new authority takes over after so many seconds."""

    tenant: str
    overlap_s: float = 0.0
