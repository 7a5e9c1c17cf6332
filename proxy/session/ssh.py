"""The settings of one tenant's SSH sessions, as an inspector needs them."""

from __future__ import annotations

from typing import Literal

import msgspec

Onward = Literal["certificate", "key", "agent"]
Method = Literal["publickey", "password", "keyboard-interactive"]
MAX_USER_NAME = 255
FileTransfer = Literal["read-write", "read-only", "none"]


class SSHRules(msgspec.Struct, frozen=True, omit_defaults=True):
    """Public keys are text in OpenSSH's format. Private keys there are none: the proxy signs."""

    host_key: str  # what clients see for every origin
    keys: dict[str, list[str]] = {}  # of each user: the public keys that prove it
    user_cas: list[str] = []  # public keys that sign users' certificates
    methods: tuple[Method, ...] = ("publickey",)  # by which users prove who they are; a hook judges the other two
    prompts: tuple[str, ...] = ("Password: ",)  # what keyboard-interactive asks
    trust_tunnel: bool = False  # whoever the tunnel says it is needs no further proof
    logins: dict[str, list[str]] | None = None  # of each identity: the user names it may have at origins; None: any
    onward: Onward = "certificate"
    onward_key: str | None = None
    known_hosts: str = ""  # of origins, with @cert-authority and @revoked
    sshfp: bool = False  # what a validating resolver says of an origin's host keys is believed
    local_forwarding: bool = False
    remote_forwarding: bool = False
    agent_forwarding: bool = False
    x11_forwarding: bool = False
    file_transfer: FileTransfer = "read-write"
    needs_reason: bool = False  # a session channel says why it is wanted
    record: bool = False  # what terminals show
    record_commands: bool = False  # what commands without a terminal write
    record_input: bool = False  # and what is typed, except where the terminal does not echo it
    recording_version: Literal[2, 3] = 2  # of asciicast
    recording_keys: list[str] = []  # of age: who can read recordings
    recording_bytes: int = 64 << 20
    needs_recording: bool = False  # a session whose recording fails ends
    hash_files: bool = False  # what sftp and scp read and write
    login_s: float = 120.0
    keepalive_s: float = 60.0
    max_channels: int = 256


def may_be(logins: dict[str, list[str]] | None, identity: str | None, user: str) -> bool:
    """Whether this identity may have this user name at an origin; `*` in `logins` is everybody else, or every name,
    and `{name}` what is before the `@` of the identity."""
    if logins is None:
        return True
    name = (identity or "").partition("@")[0]
    names = logins.get(identity or "", logins.get("*", []))
    return any(each == "*" or each.replace("{name}", name) == user for each in names if name or "{" not in each)


def is_user_name(name: str) -> bool:
    """Whether it can be a user's: no control characters or blanks, no path, nothing that looks like an option."""
    return (
        0 < len(name) <= MAX_USER_NAME
        and name.isprintable()
        and not any(each in name for each in " /\"'")
        and name not in (".", "..")
        and not name.startswith("-")
    )
