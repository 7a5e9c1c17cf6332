"""The seccomp filter of inspectors, which allows only the system calls that they need."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from typing import Any

CLONE_THREAD = 0x10000

# By purpose, for CPython 3.11 to 3.13, glibc and OpenSSL. Names unknown on this machine are skipped.
BYTES = (
    "read", "readv", "pread64", "write", "writev", "pwrite64", "recvfrom", "recvmsg", "recvmmsg", "sendto", "sendmsg",
    "sendmmsg", "recv", "send", "splice", "shutdown",
)  # fmt: skip
DESCRIPTORS = (
    "close", "close_range", "dup", "dup2", "dup3", "fcntl", "fcntl64", "pipe", "pipe2", "eventfd", "eventfd2",
    "memfd_create", "getsockname", "getpeername", "getsockopt", "setsockopt", "lseek", "_llseek", "fsync", "fdatasync",
    "ftruncate", "ftruncate64",
)  # fmt: skip
WAITING = (
    "epoll_create", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll",
    "ppoll_time64", "select", "_newselect", "pselect6", "pselect6_time64", "nanosleep", "clock_nanosleep",
    "clock_nanosleep_time64", "restart_syscall", "sched_yield", "timerfd_create", "timerfd_settime",
)  # fmt: skip
MEMORY = ("brk", "mmap", "mmap2", "munmap", "mremap", "madvise", "mprotect", "membarrier")
THREADS = (
    "futex", "futex_time64", "futex_waitv", "set_robust_list", "get_robust_list", "set_tid_address", "rseq", "gettid",
    "exit", "exit_group", "sched_getaffinity", "sched_getparam", "sched_getscheduler", "getcpu", "arch_prctl",
)  # fmt: skip
SIGNALS = (
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigpending", "rt_sigsuspend", "rt_sigtimedwait",
    "sigaltstack", "sigreturn",
)  # fmt: skip
FACTS = (
    "clock_gettime", "clock_gettime64", "clock_getres", "gettimeofday", "time", "times", "getpid", "getppid", "getuid",
    "geteuid", "getgid", "getegid", "getresuid", "getresgid", "getgroups", "getrandom", "getrusage", "getrlimit",
    "ugetrlimit", "sysinfo", "uname", "getcwd", "umask",
)  # fmt: skip
# Landlock and the user ID decide what may be opened; that nothing may be opened for writing is enforced here too.
FILES = (
    "stat", "stat64", "lstat", "lstat64", "fstat", "fstat64", "fstatat64", "newfstatat", "statx", "statfs", "fstatfs",
    "access", "faccessat", "faccessat2", "readlink", "readlinkat", "getdents", "getdents64",
)  # fmt: skip
ALLOWED = (*BYTES, *DESCRIPTORS, *WAITING, *MEMORY, *THREADS, *SIGNALS, *FACTS, *FILES)

# Refused with EPERM rather than ENOSYS: not allowed, as opposed to not implemented.
REFUSED = (
    "socket", "socketpair", "connect", "bind", "listen", "accept", "accept4", "execve", "execveat", "fork", "vfork",
    "ptrace", "process_vm_readv", "process_vm_writev", "kill", "tkill", "pidfd_open", "pidfd_send_signal",
    "pidfd_getfd", "mount", "umount2", "setns", "unshare", "bpf", "unlink", "unlinkat", "rename", "renameat", "mkdir",
    "mkdirat", "rmdir", "chmod", "fchmodat", "chown", "creat", "truncate", "open_by_handle_at", "prctl",
)  # fmt: skip


def make_filter(*, appends: bool) -> Callable[[], None]:
    """A function that loads the filter into every thread. It raises OSError if the kernel refuses.

    `appends`: files may be opened for appending. ImportError: no libseccomp. Unlisted calls fail with ENOSYS, as on a
    kernel that lacks them: the C library and CPython then fall back, so that newer versions of them go on working.
    """
    try:
        import pyseccomp  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except (RuntimeError, OSError) as error:  # the package is installed, the library is not
        raise ImportError(str(error)) from error
    rules = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.ENOSYS))
    for name in ALLOWED:
        _add(rules, pyseccomp.ALLOW, name)
    for name in REFUSED:
        _add(rules, pyseccomp.ERRNO(errno.EPERM), name)
    _add_conditions(rules, pyseccomp, appends)
    load: Callable[[], None] = rules.load
    return load


def _add_conditions(rules: Any, seccomp: Any, appends: bool) -> None:
    """Calls that are allowed for certain arguments only."""
    argument, allow, refuse = seccomp.Arg, seccomp.ALLOW, seccomp.ERRNO(errno.EPERM)
    for name, place in (("open", 1), ("openat", 2)):  # openat2's flags are in memory, out of a filter's reach: ENOSYS
        _add(rules, allow, name, argument(place, seccomp.MASKED_EQ, os.O_ACCMODE, os.O_RDONLY))
        if appends:
            mask = os.O_ACCMODE | os.O_APPEND
            _add(rules, allow, name, argument(place, seccomp.MASKED_EQ, mask, os.O_WRONLY | os.O_APPEND))
        for flag in (os.O_RDWR,) if appends else (os.O_WRONLY, os.O_RDWR):
            _add(rules, refuse, name, argument(place, seccomp.MASKED_EQ, os.O_ACCMODE, flag))
    # threads but not processes; the C library falls back to this from clone3, whose flags are in memory
    _add(rules, allow, "clone", argument(0, seccomp.MASKED_EQ, CLONE_THREAD, CLONE_THREAD))
    _add(rules, refuse, "clone", argument(0, seccomp.MASKED_EQ, CLONE_THREAD, 0))
    _add(rules, allow, "prlimit64", argument(2, seccomp.EQ, 0))  # reading limits, not setting them
    _add(rules, allow, "tgkill", argument(0, seccomp.EQ, os.getpid()))  # abort()
    for request in (0x5421, 0x5450, 0x5451, 0x541B, 0x5401):  # FIONBIO, FIONCLEX, FIOCLEX, FIONREAD, TCGETS (isatty)
        _add(rules, allow, "ioctl", argument(1, seccomp.EQ, request))


def _add(rules: Any, action: int, name: str, *conditions: Any) -> None:
    with contextlib.suppress(OSError, RuntimeError):  # unknown on this machine
        rules.add_rule(action, name, *conditions)
