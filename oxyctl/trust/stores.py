"""Trust stores of this machine, and the commands that add or remove a certificate."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from oxyctl.errors import OxyctlError, UsageError
from oxyctl.trust import Store


class Change(NamedTuple):
    """A file to write (None: to remove), then commands to run."""

    file: Path | None
    text: str | None
    commands: list[list[str]]


# Each distribution's directory for local roots, and the command that installs them. The first existing one is used.
SYSTEMS = (
    ("/usr/local/share/ca-certificates", "update-ca-certificates", ".crt"),  # Debian, Ubuntu, Alpine
    ("/etc/pki/ca-trust/source/anchors", "update-ca-trust", ".pem"),  # Fedora, RHEL
    ("/etc/pki/trust/anchors", "update-ca-certificates", ".pem"),  # openSUSE
    ("/etc/ca-certificates/trust-source/anchors", "update-ca-trust", ".crt"),  # Arch
)

BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")
MOZILLA = ".mozilla/firefox"
PROFILES = (MOZILLA, f"snap/firefox/common/{MOZILLA}", f".var/app/org.mozilla.firefox/{MOZILLA}")


def changes(store: Store, name: str, pem: str, pem_file: Path, *, remove: bool, home: Path) -> Iterator[Change]:
    """Changes that make `store` trust `pem` under this name, or remove it. OxyctlError: there is no such store here."""
    if store is Store.system:
        yield _of_system(name, None if remove else pem)
        return
    _require("certutil", "libnss3-tools or nss-tools")
    databases = [home / ".pki/nssdb"] if store is Store.nss else _firefox_profiles(home)
    if not databases:
        raise OxyctlError(f"there is no Firefox profile below {home}")
    for database in databases:
        commands = []
        if not remove and not (database / "cert9.db").exists():
            commands.append(["certutil", "-d", f"sql:{database}", "-N", "--empty-password"])
        if remove:
            commands.append(["certutil", "-d", f"sql:{database}", "-D", "-n", name])
        else:
            commands.append(["certutil", "-d", f"sql:{database}", "-A", "-t", "C,,", "-n", name, "-i", str(pem_file)])
        yield Change(None, None, commands)


def carry_out(change: Change) -> None:
    """Carry out a change. OxyctlError: it failed; UsageError: only root may do it."""
    try:
        if change.file is not None:
            if change.text is None:
                change.file.unlink(missing_ok=True)
            else:
                change.file.write_text(change.text)
    except PermissionError:
        raise UsageError(f"only root may write {change.file}: run it with sudo, or use --print") from None
    except OSError as error:
        raise OxyctlError(f"{change.file}: {error.strerror}") from None
    for command in change.commands:
        if command[0] == "certutil" and "-N" in command:
            Path(command[2].removeprefix("sql:")).mkdir(parents=True, exist_ok=True, mode=0o700)
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            output = (result.stderr or result.stdout).strip().splitlines() or [f"exit code {result.returncode}"]
            raise OxyctlError(f"{' '.join(command)}: {output[-1]}")


def variables(pem_file: Path, bundle: Path) -> dict[str, str]:
    """Environment variables that programs read. `bundle` includes the system's roots, which most of them replace."""
    replaced = (
        "SSL_CERT_FILE",
        "CURL_CA_BUNDLE",
        "GIT_SSL_CAINFO",
        "REQUESTS_CA_BUNDLE",
        "PIP_CERT",
        "CARGO_HTTP_CAINFO",
        "AWS_CA_BUNDLE",
    )
    return {**dict.fromkeys(replaced, str(bundle)), "NODE_EXTRA_CA_CERTS": str(pem_file), "DENO_CERT": str(pem_file)}


def system_roots() -> str:
    """PEM of the roots that this machine trusts; empty if they are not found."""
    for path in (ssl.get_default_verify_paths().cafile, *BUNDLES):
        if path is not None and os.path.exists(path):
            return Path(path).read_text()
    return ""


def _of_system(name: str, pem: str | None) -> Change:
    for directory, command, suffix in SYSTEMS:
        if os.path.isdir(directory) and shutil.which(command):
            return Change(Path(directory, name + suffix), pem, [[command]])
    known = ", ".join(sorted({command for _, command, _ in SYSTEMS}))
    raise OxyctlError(f"cannot find this system's trust store: none of {known} is installed (package ca-certificates)")


def _firefox_profiles(home: Path) -> list[Path]:
    return sorted(path.parent for directory in PROFILES for path in (home / directory).glob("*/cert9.db"))


def _require(program: str, package: str) -> None:
    if shutil.which(program) is None:
        raise OxyctlError(f"{program} is not installed (package {package})")
