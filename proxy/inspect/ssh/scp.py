"""scp's old protocol (`scp -O`, from rcp): parses its command, and finds the files in its stream."""

from __future__ import annotations

import shlex
from hashlib import sha256
from typing import Any, Literal, NamedTuple

from proxy.inspect.ssh.sftp import RecordOperation, escaped

Direction = Literal["read", "write"]
MAX_LINE = 8_192  # bytes of a message: mode, size and file name
MAX_DEPTH = 1_024  # of directories
OK, WARNING, FATAL = 0, 1, 2


class ScpCommand(NamedTuple):
    """`scp -f PATH` fetches files, `scp -t PATH` stores them."""

    direction: Direction
    path: str
    is_directory: bool = False  # the path must be a directory: files keep their names in it


def parse_scp(command: str) -> ScpCommand | None:
    """The parsed command; None if it is not scp."""
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    if not words or words[0].rpartition("/")[2] != "scp":
        return None
    flags = "".join(each[1:] for each in words[1:] if each.startswith("-") and not each.startswith("--"))
    path = words[-1] if len(words) > 2 else ""
    if "t" in flags:
        return ScpCommand("write", path, "d" in flags or path.endswith("/") or path in ("", ".", "..", "~"))
    return ScpCommand("read", path) if "f" in flags else None


def is_scp(command: str) -> Direction | None:
    """Whether the command fetches or stores files; None if it is not scp."""
    found = parse_scp(command)
    return None if found is None else found.direction


class ScpTap:
    """Observes the stream without changing it. One side sends files, the other answers each message with a byte."""

    def __init__(self, command: ScpCommand, record: RecordOperation, *, hashes: bool) -> None:
        """`hashes`: record the SHA-256 of each file as well."""
        self._command, self._record, self._hashes = command, record, hashes
        self._line = bytearray()
        self._directories: list[str] = []
        self._name = ""
        self._expected = self._left = -1  # bytes of the file; -1: outside a file, 0: before the byte that ends it
        self._digest: Any = None
        self._is_unparsable = False  # not the scp protocol: stop observing

    def from_client(self, data: bytes) -> bytes:
        """Observe and return `data`."""
        (self._handle_sender if self._command.direction == "write" else self._handle_receiver)(data)
        return data

    def from_origin(self, data: bytes) -> bytes:
        """Observe and return `data`."""
        (self._handle_receiver if self._command.direction == "write" else self._handle_sender)(data)
        return data

    def from_stderr(self, data: bytes) -> None:
        """Nothing to do: it is not part of a file."""

    def resized(self, columns: int, rows: int) -> None:
        """Nothing to do: it has no terminal."""

    def close(self, status: int | None = None) -> None:
        """Record a file that is incomplete."""
        if self._left > 0:
            self._end("the channel ended before the file was whole")

    def _handle_sender(self, data: bytes) -> None:
        at = 0
        while at < len(data) and not self._is_unparsable:
            if self._left > 0:
                piece = data[at : at + self._left]
                if self._digest is not None:
                    self._digest.update(piece)
                self._left -= len(piece)
                at += len(piece)
            elif self._left == 0:
                self._end(None if data[at] == OK else "the sender could not read all of it")
                if data[at] == OK:
                    at += 1  # otherwise a message follows
            else:
                end = data.find(b"\n", at)
                self._line += data[at : len(data) if end < 0 else end]
                if len(self._line) > MAX_LINE:
                    self._is_unparsable = True
                elif end >= 0:
                    line, self._line = bytes(self._line), bytearray()
                    self._message(line)
                at = len(data) if end < 0 else end + 1

    def _message(self, line: bytes) -> None:
        kind = line[:1]
        if kind in (b"C", b"D"):
            words = line[1:].split(b" ", 2)
            if len(words) != 3 or not words[1].isdigit() or len(words[1]) > 19:
                self._is_unparsable = True
            elif kind == b"D":
                self._enter(escaped(words[2]))
            else:
                self._name, self._expected = escaped(words[2]), int(words[1])
                self._left = self._expected
                self._digest = sha256() if self._hashes else None
        elif kind == b"E":
            del self._directories[-1:]
        elif kind not in (b"T", b"\x01", b"\x02"):
            self._is_unparsable = True

    def _enter(self, name: str) -> None:
        self._directories.append(name)
        self._is_unparsable = len(self._directories) > MAX_DEPTH
        if self._command.direction == "write":
            self._record("mkdir", self._path())

    def _handle_receiver(self, data: bytes) -> None:
        """Handle the receiver's answers: after a refusal, the sender continues with the next file."""
        if self._left == self._expected and self._left >= 0 and data[:1] in (b"\x01", b"\x02"):
            self._end(escaped(data[1:].split(b"\n", 1)[0]) or "refused")

    def _end(self, error: str | None) -> None:
        done = self._expected - self._left
        digest = self._digest.hexdigest() if self._digest is not None and error is None else None
        command = self._command
        if command.direction == "read" or command.is_directory or self._directories:
            self._record(command.direction, self._path(self._name), bytes=done, error=error, sha256=digest)
        else:  # only the origin knows whether this is a file, or a directory to contain it
            self._record("write", command.path, sent_as=self._name, bytes=done, error=error, sha256=digest)
        self._left = self._expected = -1
        self._digest = None

    def _path(self, *name: str) -> str:
        path = self._command.path
        above = path.rpartition("/")[0] if self._command.direction == "read" else path.rstrip("/")
        return "/".join([*([above] if above or path.startswith("/") else []), *self._directories, *name])
