"""Prepares a new process before its program starts. Run as a script, so it imports nothing from the project.

launch.py --die-with PID PROGRAM ARGUMENT0...   get SIGKILL when PID, the parent, has ended
launch.py --terminal PROGRAM ARGUMENT0...       take standard input as the controlling terminal of this session
launch.py --root SOCKET                         no program: send the root directory over this descriptor, and end
"""

from __future__ import annotations

import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, even if it already has (prctl(2))."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("launch: the parent has ended")


def take_terminal() -> None:
    """Make standard input the controlling terminal, the source of Ctrl-C and hang-ups (ioctl_tty(2))."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def send_root(number: int) -> None:
    """Send a descriptor of this process's root directory by SCM_RIGHTS; it shows the mounts of this namespace."""
    import socket

    with socket.socket(fileno=number) as sock:
        socket.send_fds(sock, [b"/"], [os.open("/", os.O_PATH | os.O_DIRECTORY)])


def main(arguments: list[str]) -> None:
    """Apply the options, then execute the program; exit status 127 if it does not exist."""
    if arguments[0] == "--root":
        return send_root(int(arguments[1]))
    if arguments[0] == "--die-with":
        die_with(int(arguments[1]))
        program, command = arguments[2], arguments[3:]
    else:
        take_terminal()
        program, command = arguments[1], arguments[2:]
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these signals, and exec keeps them ignored
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execvp(program, command)
    except OSError as error:
        print(f"{program}: {error.strerror}", file=sys.stderr)
        sys.exit(127)


if __name__ == "__main__":
    main(sys.argv[1:])
