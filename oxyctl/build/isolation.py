"""The namespaces that isolate a lab's process tree: nothing is visible outside, and everything ends with its PID 1."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from oxyctl.build.files import show_file
from oxyctl.errors import OxyctlError
from oxyctl.net.syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_REC, bind, mount
from proxy.device.namespaces import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    unshare,
)

PRIVATE = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC
RESOLV_CONF = (
    "# names of this lab are in /etc/hosts; others are refused at once\nnameserver 127.0.0.1\noptions attempts:1\n"
)

SSH_CONFIG = Path("/etc/ssh/ssh_config.d/00-oxyctl-lab.conf")  # sorts first: ssh uses an option's first value

# Sysctls that may forbid user namespaces or their use; the error names the first one that does.
OBSTACLES = {
    "kernel/apparmor_restrict_unprivileged_userns": (
        "1",
        "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    "kernel/unprivileged_userns_clone": ("0", "sudo sysctl -w kernel.unprivileged_userns_clone=1"),
    "user/max_user_namespaces": ("0", "sudo sysctl -w user.max_user_namespaces=15000"),
}


def become_init() -> int:
    """Return in a new process, PID 1 of new namespaces, with its PID outside; the calling process exits.

    The user namespace is new as well if the caller needs it to create the others. OxyctlError: refused, and why.
    """
    os.setsid()
    _unshare()
    if os.fork():
        os._exit(0)
    return int(os.readlink("/proc/self"))  # /proc still belongs to the namespace outside


def _unshare() -> None:
    uid, gid = os.geteuid(), os.getegid()
    try:
        unshare(PRIVATE)
        return
    except OSError as error:
        if error.errno != errno.EPERM:
            raise OxyctlError(f"the kernel refuses new namespaces: {error}") from None
    try:
        unshare(CLONE_NEWUSER | PRIVATE)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    except OSError as error:
        raise OxyctlError(f"the kernel refuses a user namespace: {error}{_obstacle()}") from None


def _obstacle() -> str:
    for name, (forbidding, fix) in OBSTACLES.items():
        with contextlib.suppress(OSError):
            if Path("/proc/sys", name).read_text().strip() == forbidding:
                return f"; {name.replace('/', '.')} is {forbidding}: `{fix}` permits it"
    return "; run it as root, or outside the container"


def prepare_mounts(run: Path, namespaces: Path, host_name: str) -> Iterator[str]:
    """Give this mount namespace its own /proc and name resolution, from files in `run`. Yields problems as text."""
    mount("none", "/", flags=MS_REC | MS_PRIVATE)  # first, so that no later mount propagates
    socket.sethostname(host_name)
    try:
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except OSError as error:  # the kernel refuses if a container hides parts of /proc
        yield f"/proc shows the processes outside the lab: {error.strerror}"
    namespaces.mkdir(exist_ok=True)
    mount("tmpfs", namespaces, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700,size=1m")
    _write(run / "resolv.conf", RESOLV_CONF)
    _write(run / "nsswitch.conf", _nsswitch())
    for name in ("hosts", "resolv.conf", "nsswitch.conf"):
        if problem := _replace(Path("/etc", name), run / name):
            yield problem
    if problem := _trust_hosts(run):
        yield problem
    for caches in {Path("/run/nscd").resolve(), Path("/var/run/nscd").resolve()}:
        if caches.is_dir():  # otherwise glibc would ask the daemon outside before any file
            mount("tmpfs", caches, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)


def _replace(target: Path, source: Path) -> str | None:
    real = Path(os.path.realpath(target))  # /etc/resolv.conf is a symbolic link on many systems
    if not real.exists():
        return f"{target} does not exist here, so nodes cannot see the lab's own" if target.name == "hosts" else None
    bind(source, real)
    return None


def _trust_hosts(run: Path) -> str | None:
    """Make ssh use the lab's host keys and no others. Returns the problem that prevents it, or None."""
    if not SSH_CONFIG.parent.is_dir():  # no OpenSSH, or one without this directory
        return None
    known, learnt = run / "services" / "known_hosts", run / "known_hosts"
    _write(run / "ssh_config", f'Host *\n  GlobalKnownHostsFile "{known}"\n  UserKnownHostsFile "{learnt}"\n')
    try:
        show_file(SSH_CONFIG, run / "ssh_config")
    except OSError as error:
        return f"ssh does not know the host keys of the lab: {SSH_CONFIG}: {error.strerror}"
    return None


def _nsswitch() -> str:
    """The host's nsswitch.conf, with host names from files and the lab's resolver only, not from daemons outside."""
    try:
        text = Path("/etc/nsswitch.conf").read_text()
    except OSError:
        text = ""
    return re.sub(r"^hosts:.*\n?", "", text, flags=re.MULTILINE) + "hosts: files dns\n"


def _write(path: Path, text: str) -> None:
    path.write_text(text)
