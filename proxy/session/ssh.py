"""The settings of one tenant's SSH sessions, as an inspector needs them."""

from __future__ import annotations

from typing import Literal

import msgspec

Onward = Literal["certificate", "key"]
FileTransfer = Literal["read-write", "read-only", "none"]


class SSHRules(msgspec.Struct, frozen=True, omit_defaults=True):
    """Keys are text in OpenSSH's formats; `{user}` in a principal is the user name at the origin."""

    host_key: str  # private: what clients see for every origin
    keys: dict[str, list[str]] = {}  # of each user: the public keys that prove it
    user_cas: list[str] = []  # public keys that sign users' certificates
    trust_tunnel: bool = False  # whoever the tunnel says it is needs no further proof
    onward: Onward = "certificate"
    onward_key: str | None = None  # private
    principals: tuple[str, ...] = ("{user}",)
    certificate_s: float = 300.0
    known_hosts: str = ""  # of origins, with @cert-authority and @revoked
    local_forwarding: bool = False
    remote_forwarding: bool = False
    file_transfer: FileTransfer = "read-write"
    record: bool = False  # what terminals show
    record_input: bool = False  # and what is typed, except where the terminal does not echo it
    recording_version: Literal[2, 3] = 2  # of asciicast
    recording_keys: list[str] = []  # of age: who can read recordings
    recording_bytes: int = 64 << 20
    needs_recording: bool = False  # a session whose recording fails ends
    hash_files: bool = False  # what sftp and scp read and write
    login_s: float = 120.0
    keepalive_s: float = 60.0
    max_channels: int = 256
