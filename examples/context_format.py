"""Tunnels with another context format: `hooks: "examples.context_format:SignedToken"` in proxy.yaml.

The first datagram is `OX2 <base64 of JSON claims>.<hex HMAC-SHA256 of that base64>`, as a login service would issue it.
Datagrams that begin otherwise are decoded as usual.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import time
from dataclasses import dataclass

from proxy.hooks import Hooks, TunnelContext

MAGIC = b"OX2 "
KEY = os.environ.get("TUNNEL_KEY", "").encode()


@dataclass(frozen=True)
class Claims:
    """The claims of the token besides the tunnel's owner; hooks of flows find them as `flow.extension`."""

    role: str
    expires_at: float


class SignedToken(Hooks[Claims]):
    """Without a key no token is valid."""

    def __init__(self, key: bytes = KEY) -> None:
        self._key = key

    async def packet_context(self, data: bytes) -> TunnelContext[Claims] | str | None:
        if not data.startswith(MAGIC):
            return None
        body, _, signature = data.removeprefix(MAGIC).partition(b".")
        if not self._key or not hmac.compare_digest(sign(self._key, body), signature):
            return "the token's signature is not good"
        try:
            said = json.loads(base64.b64decode(body, validate=True))
            claims = Claims(role=str(said["role"]), expires_at=float(said["exp"]))
            context = TunnelContext(
                tenant=said["tenant"], addresses=said["addresses"], user=said["sub"], token=said.get("token"),
                extension=claims,
            )  # fmt: skip
        except (binascii.Error, ValueError, KeyError, TypeError) as error:
            return f"the token's claims cannot be read: {error}"
        return context if claims.expires_at > time.time() else "the token has expired"


def sign(key: bytes, body: bytes) -> bytes:
    """The signature of a token's body, in hexadecimal digits."""
    return hmac.new(key, body, hashlib.sha256).hexdigest().encode()


def token(key: bytes, **claims: object) -> bytes:
    """A first datagram with these claims."""
    body = base64.b64encode(json.dumps(claims).encode())
    return MAGIC + body + b"." + sign(key, body)
