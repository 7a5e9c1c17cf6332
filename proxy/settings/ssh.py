"""Settings of SSH sessions that the proxy terminates: `inspection: {ssh: ...}` of a tenant."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from proxy.settings.document import Document, Place
from proxy.settings.parts import Part

Method = Literal["publickey", "password", "keyboard-interactive"]


class SSHInspection(Part, frozen=True):
    """Authentication of users and to origins, and allowed channels. Public keys are lines as in `*.pub`."""

    # how users are authenticated: by the tunnel alone, by keys (by the tunnel's user name), by certificates
    trust: Literal["proof", "tunnel"] = "proof"
    keys: dict[str, list[str]] = msgspec.field(default_factory=dict)
    user_cas: list[str] = msgspec.field(default_factory=list)
    methods: Annotated[list[Method], Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: ["publickey"]  # the other two need the hook `ssh_auth`
    )
    prompts: Annotated[list[str], Meta(min_length=1, max_length=8)] = msgspec.field(
        default_factory=lambda: ["Password: "]  # for keyboard-interactive
    )
    # the user names that each identity may use at origins; `*`: all other identities, or any name. None: no restriction
    logins: dict[str, list[str]] | None = None
    # authentication to origins: a certificate of the tenant's SSH CA for this session, a private key from a file, or
    # signatures of the client's own agent
    onward: Literal["certificate", "key", "agent"] = "certificate"
    onward_key: str | None = None
    principals: Annotated[list[str], Meta(min_length=1, max_length=64)] = msgspec.field(
        default_factory=lambda: ["{user}"]  # the user name that the client requests
    )
    certificate_s: Annotated[float, Meta(gt=0, le=3_600)] = 300
    # source prefixes from which a certificate may be used; by default the address from which the proxy connects
    certificate_sources: Annotated[list[str], Meta(min_length=1, max_length=64)] | None = None
    known_hosts: str | None = None  # a file; origins that are not in it are refused
    sshfp: bool = False  # trust host keys in DNS, from a validating resolver (RFC 4255)
    local_forwarding: bool = False
    remote_forwarding: bool = False
    agent_forwarding: bool = False
    x11_forwarding: bool = False
    file_transfer: Literal["read-write", "read-only", "none"] = "read-write"
    needs_reason: bool = False  # a session must give a reason
    record: bool = False  # output of terminals, as asciicast in the state directory
    record_commands: bool = False  # output of commands without a terminal
    record_input: bool = False  # also typed lines, if they are echoed
    recording_version: Literal[2, 3] = 2  # of asciicast
    recording_keys: list[str] = msgspec.field(default_factory=list)  # age1...: only these can decrypt recordings
    recording_bytes: Annotated[int, Meta(ge=4_096)] = 64 << 20  # maximum size of one recording
    # maximum size of all finished recordings of the tenant; beyond it the oldest are deleted
    recordings_bytes: Annotated[int, Meta(ge=4_096)] | None = None
    recordings_days: Annotated[float, Meta(gt=0)] | None = None
    needs_recording: bool = False  # end a channel if its recording fails
    hash_files: bool = False  # record the SHA-256 of each file that sftp and scp transfer


def resolve_ssh_paths(ssh: SSHInspection, base: Path) -> SSHInspection:
    """`ssh` with paths, which are relative to `base`, made absolute."""
    return msgspec.structs.replace(
        ssh,
        onward_key=None if ssh.onward_key is None else str(base / ssh.onward_key),
        known_hosts=None if ssh.known_hosts is None else str(base / ssh.known_hosts),
    )


def check_ssh(document: Document, ssh: SSHInspection, place: Place) -> None:
    """Check the settings. DocumentError: the first mistake."""
    if ssh.onward == "key" and ssh.onward_key is None:
        raise document.error("'onward: key' needs the file 'onward_key'", (*place, "onward"))
    for user, keys in ssh.keys.items():
        for index, key in enumerate(keys):
            _check_key(document, key, (*place, "keys", user, index))
    for index, key in enumerate(ssh.user_cas):
        _check_key(document, key, (*place, "user_cas", index))
    for index, key in enumerate(ssh.recording_keys):
        if not key.startswith("age1"):  # its checksum is verified when it is used
            raise document.error("expected a public key of age: 'age1...'", (*place, "recording_keys", index))
    if any(not each for each in ssh.principals):
        raise document.error("a principal is empty", (*place, "principals"))
    for index, prefix in enumerate(ssh.certificate_sources or ()):
        try:
            ip_network(prefix)
        except ValueError as error:
            raise document.error(str(error), (*place, "certificate_sources", index)) from error


def _check_key(document: Document, key: str, place: Place) -> None:
    words = key.split()
    if len(words) < 2 or not words[1].startswith("AAAA"):
        raise document.error("expected a public key such as 'ssh-ed25519 AAAA...'", place)
