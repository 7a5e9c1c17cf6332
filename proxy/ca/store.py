"""Stores tenants' authorities, and caches a bounded number of leaves."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.ca.files import read_imported, write
from proxy.ca.info import AuthorityInfo
from proxy.errors import ProxyError
from proxy.settings.inspection import Inspection

if TYPE_CHECKING:
    from proxy.ca.authority import Authority, Leaf  # `cryptography` costs 60 ms: only inspection needs it

log = logging.getLogger(__name__)

MAX_LEAVES = 4_096  # of all tenants: 1.5 KB each
RENEW_S = 86_400.0  # this long before its end, a leaf is replaced
RETRY_S = 60.0
CURRENT, NEXT = "authority.pem", "next.pem"  # key and chain in one file: they change together
PREVIOUS = "previous.pem"
PUBLIC = "certificate.pem"  # chains without keys, also of imported authorities, for clients to trust
TAKES_OVER_AT = b"takes over at: "  # the first line of NEXT, then Unix seconds; PEM ignores text before it


class Authorities:
    """The authorities of tenants: loaded or created when first needed."""

    def __init__(self, directory: str | Path, tenants: Mapping[str, Inspection]) -> None:
        """`directory`: the proxy's state. Each tenant has a directory below it."""
        self._directory, self._tenants = Path(directory) / "ca", tenants
        self._known: dict[str, Authority] = {}
        self._next: dict[str, tuple[Authority, float]] = {}  # and when it takes over, Unix seconds
        self._untrusted: Authority | None = None
        self._leaves: OrderedDict[tuple[str, str, bool], Leaf] = OrderedDict()
        self.minted = 0
        # called when leaves that were issued before must no longer be served
        self.changed: Callable[[], None] = lambda: None

    def leaf(self, tenant: str, name: str, *, untrusted: bool = False) -> Leaf:
        """A certificate for `name` that this tenant's clients trust; with `untrusted` one that they do not, because the
        origin's was not trusted either. ProxyError: there can be none."""
        key = tenant, name, untrusted
        found = self._leaves.get(key)
        if found is not None and found.not_after - time.time() > RENEW_S:
            self._leaves.move_to_end(key)
            return found
        authority = self._untrusted_authority() if untrusted else self.of(tenant)
        if not authority.permits(name):
            raise ProxyError(f"the CA of tenant '{tenant}' may not sign for {name}")
        leaf = self._leaves[key] = authority.mint(name)
        self._leaves.move_to_end(key)
        self.minted += 1
        if len(self._leaves) > MAX_LEAVES:
            self._leaves.popitem(last=False)
        return leaf

    def of(self, tenant: str) -> Authority:
        """The authority of a tenant. ProxyError: it is not available, for the reason in the message."""
        if tenant not in self._known:
            self._known[tenant] = self._open(tenant)
            self._publish(tenant)
        return self._known[tenant]

    def rotate(self, tenant: str, overlap_s: float = 0.0) -> Authority:
        """Start a rotation: a new authority takes over after `overlap_s`; 0: at once, even if one was to do so later.

        Until then `describe` includes it, so that clients can learn to trust it; the old certificate is kept for
        `previous`. ProxyError: the authority is imported, or a rotation is already in progress.
        """
        from proxy.ca.authority import Authority

        inspection = self._tenants[tenant]
        if inspection.ca is not None:
            raise ProxyError(f"the CA of tenant '{tenant}' is imported: replace its file, and start the proxy again")
        self.of(tenant)
        successor, takes_over_at = self._next.get(tenant, (None, 0.0))
        if successor is not None and overlap_s > 0:
            at = time.strftime("%F %T", time.localtime(takes_over_at))
            raise ProxyError(f"a new CA of tenant '{tenant}' takes over at {at}; without an overlap it does so at once")
        new = successor or Authority.create(_name_of(tenant), inspection.permitted)
        if overlap_s > 0:
            takes_over_at = time.time() + overlap_s
            self._save(tenant, NEXT, new, b"%s%d\n" % (TAKES_OVER_AT, takes_over_at))
            self._next[tenant] = new, takes_over_at
            self._publish(tenant)
        else:
            self._take_over(tenant, new)
        return new

    def tick(self) -> None:
        """Let authorities take over whose time has come."""
        for tenant, (successor, takes_over_at) in list(self._next.items()):
            if takes_over_at <= time.time():
                try:
                    self._take_over(tenant, successor)
                except ProxyError as error:  # the disk is full: the old one continues to sign
                    log.error("tenant '%s': %s", tenant, error)
                    self._next[tenant] = successor, time.time() + RETRY_S

    def previous(self, tenant: str) -> bytes:
        """The certificate before the last rotation, in PEM; empty: there was none."""
        try:
            return (self._directory / tenant / PREVIOUS).read_bytes()
        except OSError:
            return b""

    def describe(self, tenant: str) -> AuthorityInfo:
        """The public description of an authority. ProxyError: it is not available, for the reason in the message."""
        from proxy.ca.authority import describe, load_certificates

        current = self.of(tenant)
        successor, takes_over_at = self._next.get(tenant, (None, 0.0))
        previous = load_certificates(self.previous(tenant))
        return AuthorityInfo(
            tenant=tenant,
            is_imported=self._tenants[tenant].ca is not None,
            root=describe(current.certificates[-1]),
            issuer=describe(current.certificate),
            next=None if successor is None else describe(successor.certificate),
            next_from=None if successor is None else int(takes_over_at),
            previous=describe(previous[0]) if previous else None,
        )

    def tenants(self) -> list[str]:
        """All tenants that may have an authority."""
        return list(self._tenants)

    def known(self) -> list[str]:
        """The tenants that have an authority: in use, imported or on disk."""
        return [
            name
            for name, inspection in self._tenants.items()
            if name in self._known or inspection.ca is not None or (self._directory / name / CURRENT).exists()
        ]

    def _open(self, tenant: str) -> Authority:
        from proxy.ca.authority import Authority, normalized_names

        inspection, path = self._tenants[tenant], self._directory / tenant / CURRENT
        if inspection.ca is not None:
            try:
                return read_imported(inspection.ca)
            except ProxyError as error:
                raise ProxyError(f"tenant '{tenant}': inspection.ca: {error}") from error
        try:
            pem = path.read_bytes()
            current = Authority.load(pem, pem)
        except FileNotFoundError:
            current = Authority.create(_name_of(tenant), inspection.permitted)
            self._save(tenant, CURRENT, current)
        except OSError as error:
            raise ProxyError(f"the CA of tenant '{tenant}' cannot be read: {error}") from error
        except ProxyError as error:
            raise ProxyError(f"{path}: {error}") from error
        if sorted(current.permitted) != sorted(normalized_names(inspection.permitted)):
            permitted = ", ".join(current.permitted) or "anything"
            log.warning("tenant '%s': its CA may sign for %s: rotate it to apply 'permitted'", tenant, permitted)
        self._open_next(tenant)
        return current

    def _open_next(self, tenant: str) -> None:
        """Load an authority that was to take over when the proxy last ran."""
        from proxy.ca.authority import Authority

        path = self._directory / tenant / NEXT
        try:
            pem = path.read_bytes()
            takes_over_at = float(pem.partition(b"\n")[0].removeprefix(TAKES_OVER_AT))
            self._next[tenant] = Authority.load(pem, pem), takes_over_at
        except FileNotFoundError:
            pass
        except (OSError, ValueError, ProxyError) as error:
            log.error("%s cannot be read, so no new CA takes over: %s", path, error)

    def _take_over(self, tenant: str, new: Authority) -> None:
        directory = self._directory / tenant
        try:
            write(directory / PREVIOUS, self.of(tenant).chain_pem, 0o644)
            self._save(tenant, CURRENT, new)
            (directory / NEXT).unlink(missing_ok=True)
        except OSError as error:
            raise ProxyError(f"the new CA cannot be stored: {error}") from error
        self._next.pop(tenant, None)
        self._known[tenant] = new
        self._publish(tenant)
        for key in [key for key in self._leaves if key[0] == tenant]:
            del self._leaves[key]
        self.changed()
        log.warning("tenant '%s': a new CA signs from now on: %s", tenant, new.fingerprint)

    def _publish(self, tenant: str) -> None:
        """Write the certificates, including the next one, to files that other users may read and install in clients."""
        path, data = self._directory / tenant / PUBLIC, self._known[tenant].chain_pem
        if tenant in self._next:
            data += self._next[tenant][0].chain_pem
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not path.exists() or path.read_bytes() != data:
                write(path, data, 0o644)
        except OSError as error:
            raise ProxyError(f"the certificate of the CA of tenant '{tenant}' cannot be stored: {error}") from error

    def _save(self, tenant: str, name: str, authority: Authority, preamble: bytes = b"") -> None:
        """Write an authority to a file that only its owner can read."""
        path = self._directory / tenant / name
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write(path, preamble + authority.key_pem + authority.chain_pem, 0o600)
        except OSError as error:
            raise ProxyError(f"the new CA cannot be stored: {error}") from error

    def _untrusted_authority(self) -> Authority:
        if self._untrusted is None:
            from proxy.ca.authority import Authority

            self._untrusted = Authority.create("the origin's certificate is not valid")
        return self._untrusted


def _name_of(tenant: str) -> str:
    """The name of the tenant's authority in certificates."""
    return f"oxyctl CA of {tenant} {time.strftime('%Y-%m-%d')}"
