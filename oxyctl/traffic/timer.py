"""A timer with microsecond resolution: asyncio's own timers may be up to a millisecond late."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import time

_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC  # as TFD_NONBLOCK and TFD_CLOEXEC
_ABSTIME = 1


class _Moment(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("it_interval", _Moment), ("it_value", _Moment))


_libc = ctypes.CDLL(None, use_errno=True)


class Timer(contextlib.AbstractContextManager["Timer"]):
    """One timerfd(2), for one waiter at a time; times are those of `loop.time()`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = _checked(_libc.timerfd_create(time.CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC))
        self._loop.add_reader(self._fd, self._fire)
        self._waiter: asyncio.Future[None] | None = None

    def __exit__(self, *exception: object) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    async def until(self, moment: float) -> None:
        """Return at `moment`. If that is past, return at once, but let other tasks run first."""
        if moment <= self._loop.time():
            await asyncio.sleep(0)
            return
        nanoseconds = max(1, int(moment * 1e9))
        setting = _Setting(_Moment(0, 0), _Moment(nanoseconds // 10**9, nanoseconds % 10**9))
        _checked(_libc.timerfd_settime(self._fd, _ABSTIME, ctypes.byref(setting), None))
        self._waiter = self._loop.create_future()
        await self._waiter

    def _fire(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 8)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
