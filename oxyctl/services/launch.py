"""What must be done inside a new process before its program starts. Run as a file; imports nothing of the project.

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
    """Have the kernel kill this process when its parent ends, also if that has happened already (prctl(2))."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("launch: the parent has ended")


def take_terminal() -> None:
    """Make standard input the session's controlling terminal: Ctrl-C and hang-ups go by it (tty_ioctl(4))."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def send_root(number: int) -> None:
    """The root directory as this process sees it, by SCM_RIGHTS: whoever has it sees the same mounts below it."""
    import socket

    with socket.socket(fileno=number) as sock:
        socket.send_fds(sock, [b"/"], [os.open("/", os.O_PATH | os.O_DIRECTORY)])


def main(arguments: list[str]) -> None:
    """Do what the options say, then become the program; exit status 127 when there is no such program."""
    if arguments[0] == "--root":
        return send_root(int(arguments[1]))
    if arguments[0] == "--die-with":
        die_with(int(arguments[1]))
        program, command = arguments[2], arguments[3:]
    else:
        take_terminal()
        program, command = arguments[1], arguments[2:]
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and what is ignored stays so after exec
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execvp(program, command)
    except OSError as error:
        print(f"{program}: {error.strerror}", file=sys.stderr)
        sys.exit(127)


if __name__ == "__main__":
    main(sys.argv[1:])
