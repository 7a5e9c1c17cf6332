"""Full-screen mode of the terminal: reads single keys, and restores the contents at the end."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import sys
from collections.abc import Iterator

_ENTER, _LEAVE, _HOME, _REST = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l", "\x1b[H", "\x1b[J"


@contextlib.contextmanager
def full_screen() -> Iterator[None]:
    """Take over the whole terminal, and restore it whatever happens."""
    sys.stdout.write(_ENTER)
    try:
        with _single_keys():
            yield
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()


def draw(lines: str) -> None:
    """Show as many lines as fit above the cursor's line."""
    shown = lines.splitlines()[: shutil.get_terminal_size((100, 24)).lines - 1]
    sys.stdout.write(_HOME + "".join(f"{line}\x1b[K\n" for line in shown) + _REST)
    sys.stdout.flush()


def key_within(seconds: float) -> str:
    """The key that was pressed, or an empty string after this many seconds."""
    if not sys.stdin.isatty():
        select.select([], [], [], seconds)
        return ""
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return os.read(sys.stdin.fileno(), 1).decode("ascii", "replace") if ready else ""


@contextlib.contextmanager
def _single_keys() -> Iterator[None]:
    """Deliver keys one by one, without echo; Ctrl-C still interrupts."""
    if not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
