"""What the proxy lends to inspectors for SSH: host keys, signatures of the user CA, files for recordings."""

from __future__ import annotations

import os
from pathlib import Path

from proxy.ca.ssh import SSHKeys
from proxy.errors import ProxyError
from proxy.session.messages import RecordingAnswer, RecordingWanted, SignatureAnswer, SignatureWanted
from proxy.session.ssh import SSHRules
from proxy.settings.ssh import SSHInspection
from proxy.wire.age import AgeError, recipient

MAX_TEXT = 4 << 20  # of known_hosts and all keys


class SSHLender:
    """Answers what inspectors ask for about SSH."""

    def __init__(self, state: str) -> None:
        """`state`: the proxy's state directory."""
        self.keys = SSHKeys(state)
        self._recordings = Path(state) / "recordings"

    def rules(self, tenant: str, ssh: SSHInspection) -> SSHRules:
        """What inspectors are told. ProxyError for files that cannot be read."""
        where = f"tenant '{tenant}': inspection.ssh"
        known = "" if ssh.known_hosts is None else _read(ssh.known_hosts, where)
        _check_keys(ssh.recording_keys, where)
        onward = None if ssh.onward_key is None else _read(ssh.onward_key, where)
        if len(known) + sum(len(key) for keys in ssh.keys.values() for key in keys) > MAX_TEXT:
            raise ProxyError(f"{where}: known_hosts and keys are larger than {MAX_TEXT >> 20} MiB together")
        return SSHRules(
            host_key=self.keys.host_key(tenant).decode(),
            keys=ssh.keys,
            user_cas=ssh.user_cas,
            trust_tunnel=ssh.trust == "tunnel",
            onward=ssh.onward,
            onward_key=onward,
            principals=tuple(ssh.principals),
            certificate_s=ssh.certificate_s,
            known_hosts=known,
            local_forwarding=ssh.local_forwarding,
            remote_forwarding=ssh.remote_forwarding,
            file_transfer=ssh.file_transfer,
            record=ssh.record,
            record_input=ssh.record_input,
            recording_version=ssh.recording_version,
            recording_keys=ssh.recording_keys,
            recording_bytes=ssh.recording_bytes,
            needs_recording=ssh.needs_recording,
            hash_files=ssh.hash_files,
        )

    def sign(self, tenant: str, wanted: SignatureWanted, seconds: float) -> SignatureAnswer:
        """A user certificate, or why there is none."""
        try:
            signed = self.keys.sign(tenant, wanted.public_key, wanted.key_id, wanted.principals, seconds)
        except ProxyError as error:
            return SignatureAnswer(wanted.request, error=str(error))
        return SignatureAnswer(wanted.request, signed)

    def recording(self, tenant: str, wanted: RecordingWanted) -> tuple[RecordingAnswer, list[int]]:
        """A descriptor of a new file that can only be written to, or why there is none."""
        name = wanted.name.replace("/", "_")
        place = self._recordings / tenant
        try:
            os.makedirs(place, mode=0o700, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            return RecordingAnswer(wanted.request), [os.open(place / name, flags, 0o600)]
        except OSError as error:
            return RecordingAnswer(wanted.request, error=f"the recording cannot be made: {error.strerror}"), []


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
