"""TLS of those kinds of traffic that have it."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

from oxyctl.traffic.failures import Unusable


def client_context(ca: str | None, versions: Sequence[str]) -> ssl.SSLContext:
    """TLS that offers `versions` by ALPN. Certificates are verified only against `ca`, a file. Unusable: it is none."""
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise Unusable(f"cannot read certificates from {ca}: {error}") from None
    if ca is None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(versions)
    return context
