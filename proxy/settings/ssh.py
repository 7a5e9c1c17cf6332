"""Settings of SSH sessions that end in the proxy: `inspection: {ssh: ...}` of a tenant."""

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
    """Who is let in, what origins get to see, and which channels are allowed. Public keys are lines as in `*.pub`."""

    # who is there: by what the tunnel says alone, by keys (of users as the tunnel names them), by certificates
    trust: Literal["proof", "tunnel"] = "proof"
    keys: dict[str, list[str]] = msgspec.field(default_factory=dict)
    user_cas: list[str] = msgspec.field(default_factory=list)
    methods: Annotated[list[Method], Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: ["publickey"]  # the hook `ssh_auth` judges the other two
    )
    prompts: Annotated[list[str], Meta(min_length=1, max_length=8)] = msgspec.field(
        default_factory=lambda: ["Password: "]  # of keyboard-interactive
    )
    # the user names at origins that each identity may have; `*`: everybody else, or every name. Without it: any
    logins: dict[str, list[str]] | None = None
    # what origins are shown: a certificate of the tenant's SSH CA for this session, a private key from a file, or what
    # the client's own agent signs
    onward: Literal["certificate", "key", "agent"] = "certificate"
    onward_key: str | None = None
    principals: Annotated[list[str], Meta(min_length=1, max_length=64)] = msgspec.field(
        default_factory=lambda: ["{user}"]  # the user name that the client asks for
    )
    certificate_s: Annotated[float, Meta(gt=0, le=3_600)] = 300
    # prefixes that a certificate may be used from; without it, the address that the proxy connects from
    certificate_sources: Annotated[list[str], Meta(min_length=1, max_length=64)] | None = None
    known_hosts: str | None = None  # a file; an origin that it does not know is refused
    sshfp: bool = False  # what a validating resolver says of an origin's host keys is believed (RFC 4255)
    local_forwarding: bool = False
    remote_forwarding: bool = False
    agent_forwarding: bool = False
    x11_forwarding: bool = False
    file_transfer: Literal["read-write", "read-only", "none"] = "read-write"
    needs_reason: bool = False  # a session says why it is wanted
    record: bool = False  # what terminals show, as asciicast in the state directory
    record_commands: bool = False  # what commands without a terminal write
    record_input: bool = False  # and the lines that are typed and shown
    recording_version: Literal[2, 3] = 2  # of asciicast
    recording_keys: list[str] = msgspec.field(default_factory=list)  # age1...: who alone can read recordings
    recording_bytes: Annotated[int, Meta(ge=4_096)] = 64 << 20  # of one recording
    # of all of the tenant's recordings that have ended: the oldest are deleted beyond
    recordings_bytes: Annotated[int, Meta(ge=4_096)] | None = None
    recordings_days: Annotated[float, Meta(gt=0)] | None = None
    needs_recording: bool = False  # a channel whose recording fails ends
    hash_files: bool = False  # the SHA-256 of each file that sftp and scp move, in its record


def absolute_ssh(ssh: SSHInspection, base: Path) -> SSHInspection:
    """The same, with paths that are relative to `base` made absolute."""
    return msgspec.structs.replace(
        ssh,
        onward_key=None if ssh.onward_key is None else str(base / ssh.onward_key),
        known_hosts=None if ssh.known_hosts is None else str(base / ssh.known_hosts),
    )


def check_ssh(document: Document, ssh: SSHInspection, place: Place) -> None:
    """DocumentError for the first mistake."""
    if ssh.onward == "key" and ssh.onward_key is None:
        raise document.error("'onward: key' needs the file 'onward_key'", (*place, "onward"))
    for user, keys in ssh.keys.items():
        for index, key in enumerate(keys):
            _check_key(document, key, (*place, "keys", user, index))
    for index, key in enumerate(ssh.user_cas):
        _check_key(document, key, (*place, "user_cas", index))
    for index, key in enumerate(ssh.recording_keys):
        if not key.startswith("age1"):  # its checksum is looked at where it is used
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
