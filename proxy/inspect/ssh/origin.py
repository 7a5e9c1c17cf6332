"""The side towards the origin: its host key is verified, and it is shown a certificate or a key of the proxy's."""

from __future__ import annotations

import socket

import asyncssh

from proxy.errors import ProxyError
from proxy.inspect.ssh.algorithms import available
from proxy.inspect.ssh.view import SSHView


async def connect(sock: socket.socket, view: SSHView, user: str, identity: str) -> asyncssh.SSHClientConnection:
    """Log in at the origin as `user`; ProxyError says, in words for the user, why that is not possible.

    The socket is the connection's from now on, also when it fails.
    """
    flow, rules = view.flow, view.rules
    where = f"{flow.dst} port {flow.dst_port}"
    try:
        keys = await _credentials(view, user, identity)
        kex, ciphers, macs = available()
        options = asyncssh.SSHClientConnectionOptions(
            config=[],
            host=flow.dst,
            port=flow.dst_port,
            username=user,
            known_hosts=_known_hosts(rules.known_hosts),
            client_keys=keys,
            agent_path=None,
            preferred_auth="publickey",
            kex_algs=kex,
            encryption_algs=ciphers,
            mac_algs=macs,
            compression_algs=None,
            x509_trusted_certs=None,
            gss_host=None,
            login_timeout=rules.login_s,
            keepalive_interval=rules.keepalive_s,
            keepalive_count_max=3,
        )
    except (ProxyError, ValueError, OSError, asyncssh.KeyImportError) as error:
        sock.close()
        raise ProxyError(f"no credentials for {where}: {error}") from error
    try:
        return await asyncssh.run_client(sock, config=[], options=options, host=flow.dst, port=flow.dst_port)
    except asyncssh.HostKeyNotVerifiable as error:
        known = _is_known(rules.known_hosts, flow.dst, flow.dst_port)
        what = "has changed" if known else "is not known"
        message = f"the host key of {where} {what} ({error.reason}): the proxy does not connect to it"
        raise ProxyError(message, side="origin") from error
    except asyncssh.PermissionDenied as error:
        raise ProxyError(f"{where} does not let the proxy in as '{printable(user)}'", side="origin") from error
    except asyncssh.KeyExchangeFailed as error:
        raise ProxyError(f"no algorithms in common with {where}: {error.reason}", side="origin") from error
    except asyncssh.Error as error:
        raise ProxyError(f"{where}: {printable(error.reason)}", side="origin") from error
    except (OSError, TimeoutError) as error:
        raise ProxyError(f"{where}: {error.strerror or 'no answer in time'}", side="origin") from error


def principals_of(view: SSHView, user: str) -> list[str]:
    """Whom the certificate for `user` names."""
    return [each.replace("{user}", user) for each in view.rules.principals]


async def _credentials(view: SSHView, user: str, identity: str) -> list[asyncssh.SSHKeyPair]:
    rules = view.rules
    if rules.onward == "key":
        if rules.onward_key is None:
            raise ProxyError("no key is configured")
        return [*asyncssh.load_keypairs([asyncssh.import_private_key(rules.onward_key)])]
    key = asyncssh.generate_private_key("ssh-ed25519")  # for this session only
    public = key.export_public_key().decode()
    signed = await view.certificate(public, f"{identity} by {view.flow.id}", principals_of(view, user))
    return [*asyncssh.load_keypairs([(key, asyncssh.import_certificate(signed))])]


def _known_hosts(text: str) -> asyncssh.SSHKnownHosts:
    return asyncssh.import_known_hosts(text)


def _is_known(text: str, host: str, port: int) -> bool:
    keys, authorities, *_ = asyncssh.match_known_hosts(asyncssh.import_known_hosts(text), host, host, port)
    return bool(keys or authorities)


def printable(text: str) -> str:
    """`text` without control characters, and not longer than a line."""
    return "".join(each if each.isprintable() else "?" for each in text[:200])
