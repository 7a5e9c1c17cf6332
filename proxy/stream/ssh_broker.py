"""The broker's part for SSH: gives inspectors signatures by keys that never leave it, and recording files.

An inspector parses untrusted input, so it is not trusted: what is signed depends on the proxy's own knowledge of the
flow, the settings, and the application's answers.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

from proxy.ca.ssh import PERMITS, SigningKey, SSHKeys
from proxy.errors import ProxyError
from proxy.flow.flow import Flow
from proxy.session.messages import (
    CertificateAnswer,
    CertificateRequest,
    RecordingAnswer,
    RecordingRequest,
    SignatureAnswer,
    SignatureRequest,
)
from proxy.session.ssh import SSHRules, is_user_name, may_log_in_as
from proxy.settings.ssh import SSHInspection
from proxy.stream.recordings import Recordings, Retention
from proxy.wire.age import AgeError, recipient

log = logging.getLogger(__name__)

MAX_TEXT = 4 << 20  # bytes of known_hosts and all keys together
MAX_KEY_ID = 255
MAX_KEYS = 8  # keys of one tenant and kind
DIGESTS = (32, 48, 64)  # bytes of an exchange hash: SHA-256, SHA-384, SHA-512
USERAUTH_REQUEST = 50  # RFC 4252 6


class SSHGrants:
    """The proxy's grants to one session."""

    def __init__(self) -> None:
        self.user: str | None = None  # the user name in its certificate
        self.approved: set[str] = set()  # user names that the hook `ssh_auth` has approved


class SSHBroker:
    """Answers the requests of inspectors for SSH."""

    def __init__(self, state: str) -> None:
        """`state`: the proxy's state directory."""
        self.keys = SSHKeys(state)
        self._recordings = Recordings(Path(state) / "recordings")
        self._tenants: dict[str, SSHInspection] = {}
        self._signing_keys: dict[tuple[str, str], dict[str, SigningKey]] = {}  # by public key

    def rules(self, tenant: str, ssh: SSHInspection) -> SSHRules:
        """The tenant's SSH configuration for inspectors. Raises ProxyError for files that cannot be read."""
        where = f"tenant '{tenant}': inspection.ssh"
        known_hosts = "" if ssh.known_hosts is None else _read(ssh.known_hosts, where)
        _check_keys(ssh.recording_keys, where)
        self.keys.user_ca(tenant)  # created before the first session, since origins have to trust it
        if len(known_hosts) + sum(len(key) for keys in ssh.keys.values() for key in keys) > MAX_TEXT:
            raise ProxyError(f"{where}: known_hosts and keys are larger than {MAX_TEXT >> 20} MiB together")
        self._tenants[tenant] = ssh
        host = self._add_key(tenant, "host", self.keys.host_key(tenant))
        onward = None
        if ssh.onward_key is not None:
            try:
                key = SigningKey.load(_read(ssh.onward_key, where).encode())
            except ProxyError as error:
                raise ProxyError(f"{where}: {ssh.onward_key}: {error}") from error
            onward = self._add_key(tenant, "onward", key)
        return SSHRules(
            host_key=host.public,
            keys=ssh.keys,
            user_cas=ssh.user_cas,
            methods=tuple(ssh.methods),
            prompts=tuple(ssh.prompts),
            trust_tunnel=ssh.trust == "tunnel",
            logins=ssh.logins,
            onward=ssh.onward,
            onward_key=None if onward is None else onward.public,
            known_hosts=known_hosts,
            sshfp=ssh.sshfp,
            local_forwarding=ssh.local_forwarding,
            remote_forwarding=ssh.remote_forwarding,
            agent_forwarding=ssh.agent_forwarding,
            x11_forwarding=ssh.x11_forwarding,
            file_transfer=ssh.file_transfer,
            needs_reason=ssh.needs_reason,
            record=ssh.record,
            record_commands=ssh.record_commands,
            record_input=ssh.record_input,
            recording_version=ssh.recording_version,
            recording_keys=ssh.recording_keys,
            recording_bytes=ssh.recording_bytes,
            needs_recording=ssh.needs_recording,
            hash_files=ssh.hash_files,
        )

    def certificate(
        self, flow: Flow, grants: SSHGrants, source: Callable[[], str], message: CertificateRequest, *, is_asked: bool
    ) -> CertificateAnswer:
        """A user certificate, or the reason why there is none. `source`: the address that the origin sees. `is_asked`:
        whether the application must have approved the user."""
        try:
            return CertificateAnswer(message.request, self._certify(flow, grants, source, message, is_asked))
        except (ProxyError, OSError) as error:
            log.warning("flow %s: no SSH certificate: %s", flow.id, error)
            return CertificateAnswer(message.request, error=str(error))

    def _certify(
        self, flow: Flow, grants: SSHGrants, source: Callable[[], str], message: CertificateRequest, is_asked: bool
    ) -> str:
        ssh, user = self._settings_of(flow), message.user
        if ssh.onward != "certificate":
            raise ProxyError("this tenant's sessions do not log in with certificates")
        # The tunnel's user is known to the proxy; the inspector's claim is used only if the tunnel has none.
        identity = flow.carrier.user or message.identity
        _grant(ssh, grants, identity, user, is_asked)
        name = identity.partition("@")[0]
        principals = [each.replace("{user}", user).replace("{name}", name) for each in ssh.principals]
        sources = ssh.certificate_sources
        if sources is None:
            address = ip_address(source().partition("%")[0])
            sources = [f"{address}/{address.max_prefixlen}"]
        key_id = "".join(each for each in f"{identity} by {flow.id}" if each.isprintable())[:MAX_KEY_ID]
        return self.keys.sign(
            flow.tenant.name, message.public_key, key_id, principals, ssh.certificate_s, sources, _permits(ssh)
        )

    def sign(self, flow: Flow, grants: SSHGrants, message: SignatureRequest, *, is_asked: bool) -> SignatureAnswer:
        """A signature, or the reason why there is none."""
        try:
            return SignatureAnswer(message.request, self._signature(flow, grants, message, is_asked))
        except ProxyError as error:
            log.warning("flow %s: no SSH signature: %s", flow.id, error)
            return SignatureAnswer(message.request, error=str(error))

    def _signature(self, flow: Flow, grants: SSHGrants, message: SignatureRequest, is_asked: bool) -> bytes:
        ssh = self._settings_of(flow)
        key = self._signing_keys.get((flow.tenant.name, message.key), {}).get(message.public)
        if key is None or (message.key == "onward" and ssh.onward != "key"):
            raise ProxyError("the key does not exist")
        if message.key == "onward":
            user = _requested_user(message.data, key.blob, message.algorithm)
            if user is None:
                raise ProxyError("not an authentication request for this key")
            _grant(ssh, grants, flow.carrier.user, user, is_asked)
        elif len(message.data) not in DIGESTS:
            raise ProxyError("not an exchange hash")
        return key.sign(message.data, message.algorithm)

    def recording(self, tenant: str, message: RecordingRequest) -> tuple[RecordingAnswer, list[int]]:
        """A write-only descriptor of a new file, or the reason why there is none."""
        ssh = self._tenants.get(tenant)
        retention = Retention() if ssh is None else Retention(ssh.recordings_bytes, ssh.recordings_days)
        try:
            return RecordingAnswer(message.request), [self._recordings.create(tenant, message.name, retention)]
        except OSError as error:
            return RecordingAnswer(message.request, error=f"the recording cannot be made: {error.strerror}"), []

    def _add_key(self, tenant: str, kind: str, key: SigningKey) -> SigningKey:
        """Keep the key beside earlier ones, as sessions that began with those still rekey with them."""
        keys = self._signing_keys.setdefault((tenant, kind), {})
        keys[key.public] = key
        if len(keys) > MAX_KEYS:
            del keys[next(iter(keys))]
        return key

    def _settings_of(self, flow: Flow) -> SSHInspection:
        ssh = self._tenants.get(flow.tenant.name)
        if ssh is None:
            raise ProxyError("this tenant's SSH sessions are not inspected")
        return ssh


def _permits(ssh: SSHInspection) -> list[str]:
    """The certificate's extensions, which tell the origin what to permit: no more than the proxy does."""
    may = {
        "permit-agent-forwarding": ssh.agent_forwarding,
        "permit-port-forwarding": ssh.local_forwarding or ssh.remote_forwarding,
        "permit-X11-forwarding": ssh.x11_forwarding,
    }
    return [*PERMITS, *(name for name, is_on in may.items() if is_on)]


def _grant(ssh: SSHInspection, grants: SSHGrants, identity: str | None, user: str, is_asked: bool) -> None:
    """Let the session log in as this user, and no other, at its origin. Raises ProxyError if it may not."""
    if not is_user_name(user):
        raise ProxyError("not a valid user name")
    if grants.user not in (None, user):
        raise ProxyError(f"this session already logs in as '{grants.user}'")
    if not may_log_in_as(ssh.logins, identity, user):
        raise ProxyError(f"'{identity}' may not log in as '{user}' at an origin")
    if is_asked and user not in grants.approved:
        raise ProxyError(f"the application has not accepted '{user}'")
    grants.user = user


def _requested_user(data: bytes, blob: bytes, algorithm: str) -> str | None:
    """The user name, if `data` is a session ID and a publickey request with this key (RFC 4252 7), else None."""
    identifier, rest = _split_string(data)
    if len(identifier) not in DIGESTS or rest[:1] != bytes([USERAUTH_REQUEST]):
        return None
    user, rest = _split_string(rest[1:])
    service, rest = _split_string(rest)
    method, rest = _split_string(rest)
    named, tail = _split_string(rest[1:])
    key, end = _split_string(tail)
    expected = b"ssh-connection", b"publickey", b"\x01", algorithm.encode(), blob, b""
    if (service, method, rest[:1], named, key, end) != expected:
        return None
    return user.decode("utf-8", "replace")


def _split_string(data: bytes) -> tuple[bytes, bytes]:
    """The string at the beginning (RFC 4251 5), and the rest."""
    length = struct.unpack("!I", data[:4])[0] if len(data) >= 4 else 0
    return data[4 : 4 + length], data[4 + length :]


def _check_keys(keys: list[str], where: str) -> None:
    for key in keys:
        try:
            recipient(key)
        except AgeError as error:
            raise ProxyError(f"{where}: recording_keys: '{key}': {error}") from None


def _read(path: str, where: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ProxyError(f"{where}: {path}: {error}") from error
