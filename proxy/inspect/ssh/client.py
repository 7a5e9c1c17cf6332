"""The client's side: the tenant's host key, authentication, and requests for channels."""

from __future__ import annotations

import hmac
import logging
from collections import deque
from collections.abc import Awaitable, Sequence
from typing import Any

import asyncssh

from proxy.inspect.ssh.connections import ServerConnection
from proxy.inspect.ssh.contexts import ConnectionContext
from proxy.inspect.ssh.forwarding import PACKET, WINDOW
from proxy.inspect.ssh.hook_arguments import Login
from proxy.inspect.ssh.server_channel import ServerChannel
from proxy.inspect.ssh.text import printable
from proxy.session.ssh import SSHRules, is_user_name, may_log_in_as
from proxy.verdict import PROVED

MAX_ATTEMPTS = 6  # as MaxAuthTries of sshd
MAX_KEYS = 20  # an agent may have many

logging.getLogger("asyncssh").setLevel(logging.WARNING)  # clients determine the contents of its messages


Keys = tuple[dict[tuple[bytes, bytes], str], list[asyncssh.SSHKey]]
# by tenants' settings, which their sessions share
_parsed_keys: deque[tuple[SSHRules, Keys]] = deque(maxlen=32)


def _keys_of(rules: SSHRules) -> Keys:
    """The owner of each key, and the authorities. Cached, as a thousand keys take 15 ms to parse."""
    for parsed, keys in _parsed_keys:
        if parsed is rules:
            return keys
    owners = {
        (key.algorithm, key.public_data): user
        for user, texts in rules.keys.items()
        for key in map(asyncssh.import_public_key, texts)
    }
    keys = owners, [asyncssh.import_public_key(text) for text in rules.user_cas]
    _parsed_keys.append((rules, keys))
    return keys


class Server(asyncssh.SSHServer):
    """asyncssh's callbacks for one client."""

    def __init__(self, bridge: ConnectionContext) -> None:
        self._bridge = bridge
        self._keys, self._authorities = _keys_of(bridge.view.rules)
        self._conn: Any = None
        self._attempts = self._refused_keys = 0

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._conn = conn
        self._bridge.client_connected(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        self._bridge.client_lost(exc)

    # Authentication.

    def begin_auth(self, username: str) -> bool:
        """Whether the client must authenticate."""
        view = self._bridge.view
        flow, rules = view.flow, view.rules
        if not is_user_name(username):
            raise asyncssh.PermissionDenied("not a valid user name")
        if flow.user is not None and not may_log_in_as(rules.logins, flow.user, username):
            raise asyncssh.PermissionDenied(f"{flow.user} may not be {username} here")
        self._bridge.user_requested(username)
        if rules.trust_tunnel:
            self._bridge.identified(flow.user or flow.tunnel, "tunnel")
            return False
        return True

    def public_key_auth_supported(self) -> bool:
        return "publickey" in self._bridge.view.rules.methods and bool(self._keys or self._authorities)

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        owner = self._keys.get((key.algorithm, key.public_data))
        if owner is None or not self._may_use(owner, username):
            self._refused_keys += 1
            if self._refused_keys > MAX_KEYS:
                raise asyncssh.PermissionDenied("too many keys")
            return False
        self._bridge.identified(owner, "publickey")
        return True

    def validate_ca_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Whether `key` is a trusted authority; asyncssh then checks validity, source address and principals."""
        if not any(hmac.compare_digest(key.public_data, each.public_data) for each in self._authorities):
            return False
        assert isinstance(self._conn, ServerConnection)
        certificate = self._conn.certificate
        names = [each for each in (certificate._key_id, *certificate.principals) if each]
        owners = [name for name in names if self._may_use(name, username)]
        if not owners:
            return False
        self._bridge.identified(owners[0], "certificate")
        return True

    def password_auth_supported(self) -> bool:
        return self._can_check_responses("password")

    async def validate_password(self, username: str, password: str) -> bool:
        return await self._check_responses(username, "password", (password,))

    def kbdint_auth_supported(self) -> bool:
        return self._can_check_responses("keyboard-interactive")

    def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> Any:
        """The tenant's prompts, without echo."""
        return "", "", "", [(prompt, False) for prompt in self._bridge.view.rules.prompts]

    async def validate_kbdint_response(self, username: str, responses: Sequence[str]) -> bool:
        return await self._check_responses(username, "keyboard-interactive", tuple(responses))

    def _can_check_responses(self, method: str) -> bool:
        """Whether the tenant allows the method, and a hook can judge the responses."""
        view = self._bridge.view
        return method in view.rules.methods and view.has("ssh_auth")

    async def _check_responses(self, username: str, method: str, responses: tuple[str, ...]) -> bool:
        self._attempts += 1
        if self._attempts > MAX_ATTEMPTS:
            raise asyncssh.PermissionDenied("too many attempts")
        view = self._bridge.view
        identity = view.flow.user or username
        if not self._can_check_responses(method) or not self._may_use(identity, username):
            return False
        if await view.ask("ssh_auth", Login(username, method, identity, responses)) != PROVED:
            return False
        self._bridge.identified(identity, method)
        return True

    def _may_use(self, identity: str, username: str) -> bool:
        """Whether this identity may have the user name, and does not contradict the tunnel's user, who is compared by
        the full name or the part before its `@`."""
        flow, rules = self._bridge.view.flow, self._bridge.view.rules
        if flow.user is not None and identity not in (flow.user, flow.user.partition("@")[0]):
            return False
        return may_log_in_as(rules.logins, flow.user or identity, username)

    # Channels.

    def session_requested(self) -> Any:
        """A channel of our own class, and its session once the origin is connected."""
        front = self._bridge.session_front()
        chan = ServerChannel(self._conn, self._bridge.loop, allow_pty=True, line_editor=False, line_echo=False,
                             line_history=0, max_line_length=0, encoding=None, errors="strict", window=WINDOW,
                             max_pktsize=PACKET)  # fmt: skip
        return chan, front

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> Any:
        return self._bridge.forward(printable(dest_host, 255), dest_port, orig_host, orig_port)

    def unix_connection_requested(self, dest_path: str) -> Any:
        return self._bridge.forward_unix(dest_path)

    def server_requested(self, listen_host: str, listen_port: int) -> Awaitable[Any]:
        return self._bridge.listen(listen_host, listen_port)

    def unix_server_requested(self, listen_path: str) -> Awaitable[Any]:
        return self._bridge.listen_unix(listen_path)
