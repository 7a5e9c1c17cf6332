"""The settings of one tenant's SSH sessions, as an inspector needs them."""

from __future__ import annotations

from typing import Literal

import msgspec

Onward = Literal["certificate", "key", "agent"]
Method = Literal["publickey", "password", "keyboard-interactive"]
MAX_USER_NAME = 255
FileTransfer = Literal["read-write", "read-only", "none"]


class SSHRules(msgspec.Struct, frozen=True, omit_defaults=True):
    """Public keys are text in OpenSSH's format. There are no private keys: the proxy signs."""

    host_key: str  # that clients see for every origin
    keys: dict[str, list[str]] = {}  # by user: the public keys that authenticate it
    user_cas: list[str] = []  # public keys that sign users' certificates
    methods: tuple[Method, ...] = ("publickey",)  # of authentication; a hook judges the other two
    prompts: tuple[str, ...] = ("Password: ",)  # of keyboard-interactive
    trust_tunnel: bool = False  # the tunnel's user needs no further authentication
    logins: dict[str, list[str]] | None = None  # by identity: the permitted user names at origins; None: any
    onward: Onward = "certificate"
    onward_key: str | None = None
    known_hosts: str = ""  # of origins, with @cert-authority and @revoked
    sshfp: bool = False  # trust a validating resolver about origins' host keys
    local_forwarding: bool = False
    remote_forwarding: bool = False
    agent_forwarding: bool = False
    x11_forwarding: bool = False
    file_transfer: FileTransfer = "read-write"
    needs_reason: bool = False  # a session channel must give a reason
    record: bool = False  # the output of terminals
    record_commands: bool = False  # the output of commands without a terminal
    record_input: bool = False  # also input, except while the terminal does not echo it
    recording_version: Literal[2, 3] = 2  # of asciicast
    recording_keys: list[str] = []  # age recipients, who can decrypt recordings
    recording_bytes: int = 64 << 20
    needs_recording: bool = False  # end a session whose recording fails
    hash_files: bool = False  # hash files that sftp and scp read and write
    login_s: float = 120.0
    keepalive_s: float = 60.0
    max_channels: int = 256


def may_log_in_as(logins: dict[str, list[str]] | None, identity: str | None, user: str) -> bool:
    """Whether this identity may have this user name at an origin. In `logins`, `*` is any other identity, or any name,
    and `{name}` is the part of the identity before the `@`."""
    if logins is None:
        return True
    name = (identity or "").partition("@")[0]
    names = logins.get(identity or "", logins.get("*", []))
    return any(each == "*" or each.replace("{name}", name) == user for each in names if name or "{" not in each)


def is_user_name(name: str) -> bool:
    """Whether the text can be a user name: no control characters, blanks or path, and nothing like an option."""
    return (
        0 < len(name) <= MAX_USER_NAME
        and name.isprintable()
        and not any(each in name for each in " /\"'")
        and name not in (".", "..")
        and not name.startswith("-")
    )
