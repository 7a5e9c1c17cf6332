"""The control API's paths for tenants' certificate authorities: certificates for clients, and rotation."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from proxy.control.http11 import HttpError
from proxy.control.schema import AuthorityInfo, AuthorityView, Rotation
from proxy.errors import ProxyError
from proxy.settings import suggest

MAX_OVERLAP_S = 366 * 86_400.0


def describe(view: AuthorityView | None, tenant: str | None) -> list[AuthorityInfo]:
    """The authority of `tenant`, created if missing; without a tenant, all that exist. HttpError 404: unknown
    tenant."""
    if view is None:
        return []
    if tenant is None:
        return [view.describe(name) for name in view.known()]
    _check_tenant(tenant, view.tenants())
    return [view.describe(tenant)]


def rotate(view: AuthorityView | None, body: bytes) -> list[AuthorityInfo]:
    """Start a rotation and return the authority. HttpError: unknown tenant, or rotation is impossible."""
    try:
        rotation = msgspec.json.decode(body, type=Rotation)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HttpError(400, f"rotation: {error}") from None
    if not 0 <= rotation.overlap_s <= MAX_OVERLAP_S:
        raise HttpError(400, f"overlap_s: expected 0 to {MAX_OVERLAP_S:.0f} (found {rotation.overlap_s:g})")
    _check_tenant(rotation.tenant, () if view is None else view.tenants())
    assert view is not None
    try:
        view.rotate(rotation.tenant, rotation.overlap_s)
    except ProxyError as error:
        raise HttpError(400, str(error)) from None
    return [view.describe(rotation.tenant)]


def _check_tenant(tenant: str, known: Iterable[str]) -> None:
    names = list(known)
    if tenant not in names:
        raise HttpError(404, f"the proxy has no tenant '{tenant}'{suggest(tenant, names)}")
