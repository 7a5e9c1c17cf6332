"""The namespaces that isolate a lab's process tree: nothing is visible outside, and all of it ends with its PID 1."""

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
    "# names of this lab are in /etc/hosts; any other is refused at once\nnameserver 127.0.0.1\noptions attempts:1\n"
)

SSH_CONFIG = Path("/etc/ssh/ssh_config.d/00-oxyctl-lab.conf")  # before others: the first value of an option stands

# Each may forbid a user namespace, or its use; the first that does is what the message names.
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

    The user namespace is new too where the caller may not make the others without it. OxyctlError says what forbids it.
    """
    os.setsid()
    _unshare()
    if os.fork():
        os._exit(0)
    return int(os.readlink("/proc/self"))  # /proc is still that of the namespace outside


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
    """Give this mount namespace its own /proc and name resolution, by files in `run`; yields what was not possible."""
    mount("none", "/", flags=MS_REC | MS_PRIVATE)  # first: from here on nothing propagates
    socket.sethostname(host_name)
    try:
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except OSError as error:  # a container hides parts of /proc, and the kernel refuses to show them again
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
        if caches.is_dir():  # glibc would ask the daemon outside before any file
            mount("tmpfs", caches, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)


def _replace(target: Path, source: Path) -> str | None:
    real = Path(os.path.realpath(target))  # /etc/resolv.conf is a symbolic link on many systems
    if not real.exists():
        return f"{target} does not exist here, so the lab's own is not seen" if target.name == "hosts" else None
    bind(source, real)
    return None


def _trust_hosts(run: Path) -> str | None:
    """Let ssh know the lab's own host keys, and none of the world outside; the problem that prevents it, or None."""
    if not SSH_CONFIG.parent.is_dir():  # no OpenSSH here, or one without a place for this
        return None
    known, learnt = run / "services" / "known_hosts", run / "known_hosts"
    _write(run / "ssh_config", f'Host *\n  GlobalKnownHostsFile "{known}"\n  UserKnownHostsFile "{learnt}"\n')
    try:
        show_file(SSH_CONFIG, run / "ssh_config")
    except OSError as error:
        return f"ssh does not know the host keys of the lab: {SSH_CONFIG}: {error.strerror}"
    return None


def _nsswitch() -> str:
    """The host's, but host names come from files and the lab's resolver only: no daemon outside is asked."""
    try:
        text = Path("/etc/nsswitch.conf").read_text()
    except OSError:
        text = ""
    return re.sub(r"^hosts:.*\n?", "", text, flags=re.MULTILINE) + "hosts: files dns\n"


def _write(path: Path, text: str) -> None:
    path.write_text(text)
