"""The side towards the client: the tenant's host key, the proof of who is there, the channels that are wanted."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable
from typing import Any

import asyncssh

from proxy.inspect.ssh.bridging import Bridging
from proxy.inspect.ssh.channels import ServerChannel

WINDOW = 2 << 20
PACKET = 32 << 10

logging.getLogger("asyncssh").setLevel(logging.WARNING)  # strangers write what is in its messages


class Server(asyncssh.SSHServer):
    """What asyncssh asks about one client."""

    def __init__(self, bridge: Bridging) -> None:
        self._bridge = bridge
        rules = bridge.view.rules
        self._keys = {
            (key.algorithm, key.public_data): user
            for user, texts in rules.keys.items()
            for key in map(asyncssh.import_public_key, texts)
        }
        self._authorities = [asyncssh.import_public_key(text) for text in rules.user_cas]
        self._conn: asyncssh.SSHServerConnection
        self._certificate: Any = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._conn = conn
        validate = conn._validate_openssh_certificate

        async def noted(username: str, certificate: Any) -> Any:
            self._certificate = certificate  # `validate_ca_key` is told its signer only
            return await validate(username, certificate)

        conn._validate_openssh_certificate = noted  # type: ignore[assignment,method-assign]
        self._bridge.client_met(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        self._bridge.client_lost(exc)

    # Who is there?

    def begin_auth(self, username: str) -> bool:
        """Whether a proof is needed."""
        self._bridge.wants_to_be(username)
        if self._bridge.view.rules.trust_tunnel:
            self._bridge.proved(self._bridge.view.flow.user or self._bridge.view.flow.tunnel, "tunnel")
            return False
        return True

    def auth_completed(self) -> None:
        self._bridge.authenticated()

    def public_key_auth_supported(self) -> bool:
        return bool(self._keys or self._authorities)

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        owner = self._keys.get((key.algorithm, key.public_data))
        if owner is None or not self._is_tunnels(owner):
            return False
        self._bridge.proved(owner, "publickey")
        return True

    def validate_ca_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """asyncssh then checks validity, source address, and that the user name is one of the principals."""
        if not any(hmac.compare_digest(key.public_data, each.public_data) for each in self._authorities):
            return False
        names = [each for each in (self._certificate._key_id, *self._certificate.principals) if each]
        owners = [name for name in names if self._is_tunnels(name)]
        if not owners:
            return False
        self._bridge.proved(owners[0], "certificate")
        return True

    def password_auth_supported(self) -> bool:
        return False

    def kbdint_auth_supported(self) -> bool:
        return False

    def _is_tunnels(self, identity: str) -> bool:
        """Whether the tunnel does not say that somebody else is there; by the full name or what is before its `@`."""
        user = self._bridge.view.flow.user
        return user is None or identity in (user, user.partition("@")[0])

    # What is wanted?

    def session_requested(self) -> Any:
        """A channel of ours, and the session for it as soon as the origin is there."""
        chan = ServerChannel(self._conn, self._bridge.loop, allow_pty=True, line_editor=False, line_echo=False,
                             line_history=0, max_line_length=0, encoding=None, errors="strict", window=WINDOW,
                             max_pktsize=PACKET)  # fmt: skip
        return chan, self._bridge.session_front()

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> Any:
        return self._bridge.forward(dest_host, dest_port, orig_host, orig_port)

    def unix_connection_requested(self, dest_path: str) -> Any:
        return self._bridge.forward_unix(dest_path)

    def server_requested(self, listen_host: str, listen_port: int) -> Awaitable[Any]:
        return self._bridge.listen(listen_host, listen_port)
