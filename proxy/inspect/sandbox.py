"""What an inspector gives up before the first stranger's byte: capabilities, new rights, and most of the kernel."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource

PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 4, 24, 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
CAPABILITY_VERSION_3 = 0x20080522
LAST_CAPABILITY = 63
EPERM = 1

# What it never needs, and what is worth having to somebody who has taken it over.
FORBIDDEN = (
    "socket", "connect", "bind", "listen", "accept", "accept4", "socketpair", "execve", "execveat", "fork", "vfork",
    "ptrace", "process_vm_readv", "process_vm_writev", "kill", "tkill", "pidfd_open", "pidfd_send_signal",
    "pidfd_getfd", "mount", "umount2", "pivot_root", "chroot", "setns", "unshare", "bpf", "perf_event_open", "keyctl",
    "add_key", "request_key", "init_module", "finit_module", "kexec_load", "reboot", "mknod", "mknodat", "unlink",
    "unlinkat", "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat", "mkdir", "mkdirat",
    "rmdir", "chmod", "fchmod", "fchmodat", "chown", "fchown", "lchown", "fchownat", "truncate", "creat",
    "open_by_handle_at", "io_uring_setup", "userfaultfd", "setuid", "setgid", "setresuid", "setresgid",
)  # fmt: skip

_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def give_up_rights(*, writes_files: bool = False) -> list[str]:
    """What could not be given up, in words; empty: everything was. `writes_files`: it keeps that one right."""
    shortfalls = []
    with contextlib.suppress(ValueError, OSError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        _drop_capabilities()
    except OSError as error:
        shortfalls.append(f"inspectors keep their capabilities: {error.strerror}")
    if _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        shortfalls.append("inspectors may gain rights: no_new_privs is refused")
    try:
        _filter_calls(writes_files)
    except ImportError:
        shortfalls.append("inspectors may make any system call: pyseccomp is missing (pip install 'oxyctl[seccomp]')")
    except OSError as error:
        shortfalls.append(f"inspectors may make any system call: {error}")
    return shortfalls


def _drop_capabilities() -> None:
    """None is left, nor may any come back."""
    _libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for capability in range(LAST_CAPABILITY + 1):
        _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # EPERM without CAP_SETPCAP: no_new_privs does it then
    header, sets = _Header(CAPABILITY_VERSION_3, 0), (_Sets * 2)()
    if _libc.capset(ctypes.byref(header), ctypes.byref(sets)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _filter_calls(writes_files: bool) -> None:
    """A seccomp filter: what is forbidden fails with EPERM. ImportError without libseccomp."""
    try:
        import pyseccomp  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except (RuntimeError, OSError) as error:  # the package is there, the library is not
        raise ImportError(str(error)) from error
    refuse = pyseccomp.ERRNO(EPERM)
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for name in FORBIDDEN:
        with contextlib.suppress(OSError, RuntimeError):  # this machine has no such call
            rules.add_rule(refuse, name)
    if not writes_files:
        for flag in (os.O_WRONLY, os.O_RDWR):
            for name, place in (("open", 1), ("openat", 2)):
                with contextlib.suppress(OSError, RuntimeError):
                    rules.add_rule(refuse, name, pyseccomp.Arg(place, pyseccomp.MASKED_EQ, os.O_ACCMODE, flag))
        with contextlib.suppress(OSError, RuntimeError):
            rules.add_rule(refuse, "openat2")  # its flags are in memory, where a filter cannot look
    rules.load()
