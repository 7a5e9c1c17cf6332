"""The host key of a tenant, which signs in the proxy's process: an inspector has only the public key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import asyncssh

Sign = Callable[[bytes, str], Awaitable[bytes]]  # (data, algorithm) -> signature; raises ProxyError


class RemoteKey(asyncssh.SSHKeyPair):
    """A key pair whose private key is in another process."""

    _key_type = "remote"

    def __init__(self, public: str, sign: Sign) -> None:
        """`public`: in OpenSSH's format."""
        key = asyncssh.import_public_key(public)
        super().__init__(key.algorithm, key.algorithm, key.sig_algorithms, key.sig_algorithms, key.public_data, None)
        self._sign = sign

    def sign(self, data: bytes) -> bytes:
        """Not possible in this process: see `sign_async`."""
        raise RuntimeError("this key signs in another process")

    async def sign_async(self, data: bytes) -> bytes:
        """Request the signature, by the interface that asyncssh has for agents' keys."""
        return await self._sign(data, self.sig_algorithm.decode())


class KeyExchange:
    """A server's key exchange whose reply waits for the signature of a `RemoteKey`.

    asyncssh signs synchronously. As it does for GSS tokens, the packet handler here is a coroutine, and no packet is
    read until it has finished.
    """

    def __init__(self, exchange: Any, conn: Any) -> None:
        """`exchange`: the key exchange that asyncssh has begun."""
        self._exchange, self._conn = exchange, conn
        self._reply: Awaitable[None] | None = None
        exchange._perform_reply = self._replying

    def __getattr__(self, name: str) -> Any:
        return getattr(self._exchange, name)

    def process_packet(self, kind: int, number: int, packet: Any) -> Any:
        """Whether the packet belongs to the exchange, or an awaitable that handles it."""
        known = self._exchange.process_packet(kind, number, packet)
        reply, self._reply = self._reply, None
        return known if reply is None else reply

    def _replying(self, key: RemoteKey, blob: bytes) -> None:
        self._reply = self._answer(key, blob)

    async def _answer(self, key: RemoteKey, blob: bytes) -> None:
        exchange = self._exchange
        secret = exchange._compute_server_shared()
        digest = exchange._compute_hash(blob, secret)
        signature = await key.sign_async(digest)
        if self._conn.is_closed():
            return
        exchange._send_reply(blob, signature)
        self._conn.send_newkeys(secret, digest)
