"""The public description of a tenant's authority: everything except its key."""

from __future__ import annotations

import msgspec


class Certificate(msgspec.Struct, kw_only=True, frozen=True):
    """One certificate of an authority."""

    subject: str  # RFC 4514
    fingerprint: str  # SHA-256, as browsers show it
    not_before: int  # Unix seconds
    not_after: int
    pem: str
    permitted: list[str] = []  # names that it may sign for; empty: all


class AuthorityInfo(msgspec.Struct, kw_only=True, frozen=True):
    """The certificates that a tenant's clients must trust, and until when."""

    tenant: str
    is_imported: bool = False
    root: Certificate  # the topmost known one, which clients trust
    issuer: Certificate  # that signs leaves: the root itself, or one below it
    next: Certificate | None = None  # of a rotation in progress
    next_from: int | None = None  # when it takes over, Unix seconds
    previous: Certificate | None = None  # before the last rotation

    @property
    def bundle(self) -> str:
        """PEM of all certificates that clients should trust now, including the one that takes over soon."""
        return self.root.pem + (self.next.pem if self.next is not None else "")


class Rotation(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/ca/rotate`: a new authority takes over after this many seconds."""

    tenant: str
    overlap_s: float = 0.0
