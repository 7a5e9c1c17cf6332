"""Impaired links where the kernel has no netem: `python -m oxyctl.agents.impair CONFIG.json`.

Each link is a pair of TAP devices in the lab's own namespace, one towards the node and one towards its network; this
process relays frames between them. The devices have no offload: the kernel segments and checksums before they see a
frame, so loss and rate apply to what a wire would carry. SIGHUP reloads CONFIG.json; each load is answered by a report.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import struct
import sys
import time
from pathlib import Path

import msgspec

from oxyctl.agents.line import Line
from oxyctl.net.impairment import Impairment, seed
from proxy.device.tun import IFF_NO_PI, TUNSETIFF

IFF_TAP = 0x0002  # linux/if_tun.h
BUDGET = 64  # frames per readiness event, so that no link starves another
MAX_FRAME = 65_575


class LinkConfig(msgspec.Struct, kw_only=True, frozen=True):
    """One link: its name, its devices, and what is done to its frames."""

    name: str
    near: str  # towards the node
    far: str  # towards the network
    impairment: Impairment


class Config(msgspec.Struct, kw_only=True, frozen=True):
    """All impaired links of a lab; the report repeats their `generation`."""

    generation: int
    links: list[LinkConfig]


class Link:
    """Two devices, and one impaired direction from each to the other."""

    def __init__(self, config: LinkConfig) -> None:
        self.config = config
        start = seed(config.name)
        self.near = open_tap(config.near)
        try:
            self.far = open_tap(config.far)
        except OSError:
            os.close(self.near)
            raise
        self.lines = {
            self.near: (Line(config.impairment, start), self.far),
            self.far: (Line(config.impairment, start + 1), self.near),
        }
        self.refused = 0  # frames that the kernel rejected: the device is not up yet, or the frame is malformed

    def change(self, config: LinkConfig) -> None:
        """Keep the devices, and change the impairment."""
        self.config = config
        for line, _ in self.lines.values():
            line.change(config.impairment)

    def read(self, fd: int) -> None:
        """Take the frames that have arrived at the device `fd`."""
        line = self.lines[fd][0]
        now = time.monotonic()
        try:
            for _ in range(BUDGET):
                line.push(os.read(fd, MAX_FRAME), now)
        except BlockingIOError:
            pass
        except OSError:  # EIO: the device is down
            self.refused += 1

    def write_due(self, now: float) -> float | None:
        """Send the frames that are due; returns when the next one is, None if none is held."""
        times = []
        for line, out in self.lines.values():
            for frame in line.due(now):
                try:
                    os.write(out, frame)
                except OSError:
                    self.refused += 1
            if line.next_due is not None:
                times.append(line.next_due)
        return min(times, default=None)

    def report(self) -> dict[str, int]:
        """Counts of frames, both directions together."""
        lines = [line for line, _ in self.lines.values()]
        return {
            "passed": sum(line.passed for line in lines),
            "lost": sum(line.lost for line in lines),
            "dropped": sum(line.dropped for line in lines) + self.refused,
        }

    def close(self) -> None:
        """Close both devices, which removes them."""
        os.close(self.near)
        os.close(self.far)


class Relay:
    """All links in one epoll loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._links: dict[str, Link] = {}
        self._by_fd: dict[int, Link] = {}
        self._busy: set[Link] = set()
        self._epoll = select.epoll()

    def run(self) -> None:
        """Relay frames forever."""
        wake, changed = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(changed, warn_on_full_buffer=False)
        signal.signal(signal.SIGHUP, lambda number, frame: None)
        self._epoll.register(wake, select.EPOLLIN)
        self.reload()
        while True:
            for fd, _ in self._epoll.poll(self._write_due()):
                if fd == wake:
                    os.read(wake, 4096)
                    self.reload()
                elif (link := self._by_fd.get(fd)) is not None:
                    link.read(fd)
                    self._busy.add(link)

    def _write_due(self) -> float | None:
        """Send what is due on every link; returns the seconds until the next frame is due, None if none is held."""
        now = time.monotonic()
        times = []
        for link in list(self._busy):
            if (due := link.write_due(now)) is None:
                self._busy.discard(link)
            else:
                times.append(due)
        return max(0.0, min(times) - time.monotonic()) if times else None

    def reload(self) -> None:
        """Apply CONFIG.json and print a report, which lists the links that could not be opened."""
        config = msgspec.json.decode(self._path.read_bytes(), type=Config)
        configs = {each.name: each for each in config.links}
        for name in [name for name in self._links if name not in configs]:
            self._close(name)
        problems = {name: problem for name, each in configs.items() if (problem := self._set(each))}
        links = {name: link.report() for name, link in self._links.items()}
        print(json.dumps({"generation": config.generation, "links": links, "problems": problems}), flush=True)

    def _set(self, config: LinkConfig) -> str | None:
        if (link := self._links.get(config.name)) is not None:
            link.change(config)
            return None
        try:
            link = self._links[config.name] = Link(config)
        except OSError as error:
            return f"cannot open TAP devices: {error.strerror}"
        for fd in link.lines:
            self._by_fd[fd] = link
            self._epoll.register(fd, select.EPOLLIN)
        return None

    def _close(self, name: str) -> None:
        link = self._links.pop(name)
        self._busy.discard(link)
        for fd in link.lines:
            self._epoll.unregister(fd)
            del self._by_fd[fd]
        link.close()


def open_tap(name: str) -> int:
    """A non-blocking descriptor of the new TAP device `name`, which carries bare Ethernet frames. Raises OSError."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    except BaseException:
        os.close(fd)
        raise
    return fd


if __name__ == "__main__":
    Relay(Path(sys.argv[1])).run()
