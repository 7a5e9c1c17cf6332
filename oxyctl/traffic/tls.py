"""TLS for the kinds of traffic that use it."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

from oxyctl.traffic.failures import Unusable


def client_context(ca: str | None, versions: Sequence[str]) -> ssl.SSLContext:
    """A context that offers `versions` by ALPN and verifies only against the file `ca`. Unusable: `ca` is invalid."""
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise Unusable(f"cannot read certificates from {ca}: {error}") from None
    if ca is None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(versions)
    return context
