"""Where tenants' authorities are kept, and the leaves that were minted, up to a bound."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.errors import ProxyError
from proxy.settings.inspection import Inspection

if TYPE_CHECKING:
    from proxy.ca.authority import Authority, Leaf  # `cryptography` costs 60 ms: only who inspects needs it

MAX_LEAVES = 4_096  # of all tenants: 1.5 KB each
RENEW_S = 86_400.0  # before its end a leaf is minted anew
OWN, PREVIOUS = "authority.pem", "previous.pem"  # key and chain in one file: they change together
PUBLIC = "certificate.pem"  # the chain alone, also of an imported one: what clients are to trust


class Authorities:
    """One authority for each tenant: read or made when it is first needed."""

    def __init__(self, directory: str | Path, tenants: Mapping[str, Inspection]) -> None:
        """`directory`: of the proxy's state. Each tenant's own is below it."""
        self._directory, self._tenants = Path(directory) / "ca", tenants
        self._known: dict[str, Authority] = {}
        self._untrusted: Authority | None = None
        self._leaves: OrderedDict[tuple[str, str, bool], Leaf] = OrderedDict()
        self.minted = 0

    def leaf(self, tenant: str, name: str, *, untrusted: bool = False) -> Leaf:
        """A certificate for `name` that this tenant's clients trust; with `untrusted` one that they do not, since the
        origin's was not to be trusted either. ProxyError when there can be none."""
        key = tenant, name, untrusted
        found = self._leaves.get(key)
        if found is not None and found.not_after - time.time() > RENEW_S:
            self._leaves.move_to_end(key)
            return found
        authority = self._stranger() if untrusted else self.of(tenant)
        if not authority.permits(name):
            raise ProxyError(f"the CA of tenant '{tenant}' may not sign for {name}")
        leaf = self._leaves[key] = authority.mint(name)
        self._leaves.move_to_end(key)
        self.minted += 1
        if len(self._leaves) > MAX_LEAVES:
            self._leaves.popitem(last=False)
        return leaf

    def of(self, tenant: str) -> Authority:
        """The tenant's own; ProxyError says why it cannot be had."""
        if tenant not in self._known:
            authority = self._known[tenant] = self._open(tenant)
            self._publish(tenant, authority)
        return self._known[tenant]

    def rotate(self, tenant: str) -> Authority:
        """A new one takes its place; the certificate of the old one is kept for `previous`."""
        if self._tenants[tenant].ca is not None:
            raise ProxyError(f"the CA of tenant '{tenant}' is imported: replace its file, and reload")
        old, place = self.of(tenant), self._directory / tenant
        from proxy.ca.authority import Authority

        new = Authority.create(name_of(tenant), self._tenants[tenant].permitted)
        write(place / PREVIOUS, old.chain_pem, 0o644)
        self._write(place, new)
        self._publish(tenant, new)
        self._known[tenant] = new
        for key in [key for key in self._leaves if key[0] == tenant]:
            del self._leaves[key]
        return new

    def previous(self, tenant: str) -> bytes:
        """The certificate before the last rotation, PEM; empty: there was none."""
        try:
            return (self._directory / tenant / PREVIOUS).read_bytes()
        except OSError:
            return b""

    def _open(self, tenant: str) -> Authority:
        from proxy.ca.authority import Authority

        imported = self._tenants[tenant].ca
        if imported is not None:
            return _import(imported.file, imported.key, imported.password)
        place = self._directory / tenant
        try:
            written = (place / OWN).read_bytes()
            return Authority.load(written, written)
        except FileNotFoundError:
            new = Authority.create(name_of(tenant), self._tenants[tenant].permitted)
            self._write(place, new)
            return new
        except OSError as error:
            raise ProxyError(f"the CA of tenant '{tenant}' cannot be read: {error}") from error
        except ProxyError as error:
            raise ProxyError(f"{place}: {error}") from error

    def _publish(self, tenant: str, authority: Authority) -> None:
        """Keep its certificate where whoever installs it in clients may read it."""
        path = self._directory / tenant / PUBLIC
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not path.exists() or path.read_bytes() != authority.chain_pem:
                write(path, authority.chain_pem, 0o644)
        except OSError as error:
            raise ProxyError(f"the certificate of the CA of tenant '{tenant}' cannot be kept: {error}") from error

    def _stranger(self) -> Authority:
        if self._untrusted is None:
            from proxy.ca.authority import Authority

            self._untrusted = Authority.create("the origin's certificate is not valid")
        return self._untrusted

    @staticmethod
    def _write(place: Path, authority: Authority) -> None:
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            write(place / OWN, authority.key_pem + authority.chain_pem, 0o600)
        except OSError as error:
            raise ProxyError(f"the new CA cannot be kept: {error}") from error


def name_of(tenant: str) -> str:
    """What certificates call the authority of a tenant."""
    return f"oxyctl CA of {tenant} {time.strftime('%Y-%m-%d')}"


def write(path: Path, data: bytes, mode: int) -> None:
    """Replace the file at once and durably: after a crash there is the old one or the new one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.fchmod(descriptor, mode)
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(draft, path)


def _import(file: str, key: str | None, password: str | None) -> Authority:
    from proxy.ca.authority import Authority

    try:
        data = Path(file).read_bytes()
        if data.lstrip().startswith(b"-----BEGIN"):
            return Authority.load(data, Path(key).read_bytes() if key else data, password)
        return Authority.load_pkcs12(data, password)
    except OSError as error:
        raise ProxyError(f"{error.filename}: {error.strerror}") from error
    except ProxyError as error:
        raise ProxyError(f"{file}: {error}") from error
