"""The origin's side: verifies its host key, and logs in with a certificate or key."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import lru_cache
from typing import Any, NamedTuple

import asyncssh

from proxy.errors import ProxyError
from proxy.inspect.ssh.algorithms import HOST_KEYS, KEX_OF_ORIGINS, connection_options
from proxy.inspect.ssh.connections import ClientConnection, start
from proxy.inspect.ssh.contexts import ConnectionContext
from proxy.inspect.ssh.key_exchange import RemoteKey
from proxy.inspect.ssh.text import printable
from proxy.inspect.ssh.view import SSHView

CERTIFIED = "-cert-v01@openssh.com"


class KnownKeys(NamedTuple):
    """The known host keys of an origin."""

    keys: Sequence[asyncssh.SSHKey]
    authorities: Sequence[asyncssh.SSHKey]
    digests: frozenset[bytes] = frozenset()  # SHA-256, from DNS

    def algorithms(self) -> list[str]:
        """The algorithms of known keys, so that the origin presents one of them; all good ones if none is known."""
        of_keys = {name.decode() for key in self.keys for name in key.sig_algorithms}
        plain = [name for name in HOST_KEYS if name in of_keys or self.digests]
        certified = [name + CERTIFIED for name in HOST_KEYS] if self.authorities else []
        return [*certified, *plain] or list(HOST_KEYS)


class Client(asyncssh.SSHClient):
    """asyncssh's callbacks for the origin."""

    def __init__(self, bridge: ConnectionContext, known: KnownKeys) -> None:
        self._bridge, self._known = bridge, known
        self._conn: Any = None

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self._conn = conn
        self._conn.signs_at_once = (
            self._bridge.view.rules.onward != "agent"
        )  # an agent may ask its user for consent each time

    def connection_lost(self, exc: Exception | None) -> None:
        self._conn.lost = exc

    def auth_banner_received(self, msg: str, lang: str) -> None:
        self._bridge.banner(msg, lang)

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Whether a key that is not in known_hosts is in DNS."""
        return hashlib.sha256(key.public_data).digest() in self._known.digests


async def connect(
    bridge: ConnectionContext, sock: socket.socket, user: str, identity: str, agent: Any
) -> ClientConnection:
    """Log in at the origin as `user`. ProxyError: it is not possible; the message is for the user.

    `agent`: the client's connection, if its agent authenticates at the origin.
    """
    view = bridge.view
    flow = view.flow
    where = f"{flow.dst} port {flow.dst_port}"
    async with AsyncExitStack() as stack:  # keeps the agent until the login is complete
        try:
            known = await _known(view)
            keys, named = await _credentials(view, user, identity, agent, stack)
            options = asyncssh.SSHClientConnectionOptions(
                **connection_options(view.rules, KEX_OF_ORIGINS),
                client_factory=lambda: Client(bridge, known),
                host=flow.dst,
                port=flow.dst_port,
                username=user,
                known_hosts=_hosts(view.rules.known_hosts),
                server_host_key_algs=known.algorithms(),
                client_keys=keys,
                agent_path=None,
                preferred_auth="publickey",
            )
        except (ProxyError, ValueError, OSError, asyncssh.Error, asyncssh.KeyImportError) as error:
            raise ProxyError(f"no credentials for {where}: {error}") from error
        try:
            conn = await start(ClientConnection, bridge, sock, options)
        except asyncssh.HostKeyNotVerifiable as error:
            what = "has changed" if known.keys or known.authorities or known.digests else "is not known"
            message = f"the host key of {where} {what} ({error.reason}): the proxy does not connect to it"
            raise ProxyError(message, side="origin") from error
        except asyncssh.PermissionDenied as error:
            raise ProxyError(f"{where} does not accept the proxy as '{printable(user)}'", side="origin") from error
        except asyncssh.KeyExchangeFailed as error:
            raise ProxyError(f"no algorithms in common with {where}: {error.reason}", side="origin") from error
        except (asyncssh.Error, OSError, ValueError) as error:
            raise ProxyError(f"{where}: {_error_text(error)}", side="origin") from error
        conn.principals = list(named)
        return conn


def _error_text(error: Exception) -> str:
    if isinstance(error, asyncssh.Error):
        return printable(error.reason)
    if isinstance(error, OSError):
        return error.strerror or "no answer in time"
    return "it does not speak SSH"


@lru_cache(maxsize=32)
def _hosts(text: str) -> asyncssh.SSHKnownHosts:
    """The parsed known_hosts of a tenant, cached for all its sessions: 200 lines take 3 ms."""
    return asyncssh.import_known_hosts(text)


async def _known(view: SSHView) -> KnownKeys:
    flow, rules = view.flow, view.rules
    hosts = _hosts(rules.known_hosts)
    keys, authorities, *_ = asyncssh.match_known_hosts(hosts, flow.dst, flow.dst, flow.dst_port)
    if rules.sshfp and not keys and not authorities:
        return KnownKeys(keys, authorities, frozenset(await view.fingerprints()))
    return KnownKeys(keys, authorities)


async def _credentials(
    view: SSHView, user: str, identity: str, agent: Any, stack: AsyncExitStack
) -> tuple[list[asyncssh.SSHKeyPair], Sequence[str]]:
    """The keys to present to the origin, and the principals of a certificate among them."""
    rules = view.rules
    if rules.onward == "agent":
        keys = await (await stack.enter_async_context(asyncssh.connect_agent(agent))).get_keys()
        if not keys:
            raise ProxyError("the agent has no keys")
        return [*keys], ()
    if rules.onward == "key":
        if rules.onward_key is None:
            raise ProxyError("no key is configured")
        return [RemoteKey(rules.onward_key, lambda data, algorithm: view.sign("onward", data, algorithm))], ()
    key = asyncssh.generate_private_key("ssh-ed25519")  # for this session only
    signed: Any = asyncssh.import_certificate(await view.certificate(key.export_public_key().decode(), user, identity))
    return [*asyncssh.load_keypairs([(key, signed)])], signed.principals
