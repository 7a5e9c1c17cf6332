"""The file operations in an sftp stream (draft-ietf-secsh-filexfer-02, version 3): records them, and refuses writes if
files may only be read."""

from __future__ import annotations

import struct
from collections.abc import Callable
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

MAX_PACKET = 1 << 20  # OpenSSH's is 256 KiB
MAX_OPEN = 4_096  # tracked files and requests; more are forwarded but not recorded
HEAD_BYTES = 768  # bytes of an answer that are parsed; a handle has at most 256
VERSION = 3

INIT, OPEN, CLOSE, READ, WRITE, SETSTAT, FSETSTAT = 1, 3, 4, 5, 6, 9, 10
REMOVE, MKDIR, RMDIR, RENAME, SYMLINK, EXTENDED = 13, 14, 15, 18, 20, 200
STATUS, HANDLE, DATA = 101, 102, 103
HARMLESS = frozenset(
    {INIT, CLOSE, READ, 7, 8, 11, 12, 16, 17, 19}
)  # LSTAT FSTAT OPENDIR READDIR REALPATH STAT READLINK
HARMLESS_EXTENSIONS = frozenset({
    b"statvfs@openssh.com", b"fstatvfs@openssh.com", b"limits@openssh.com", b"expand-path@openssh.com",
    b"users-groups-by-id@openssh.com", b"home-directory", b"text-seek", b"vendor-id", b"check-file",
})  # fmt: skip
WRITES = 0x02 | 0x04 | 0x08 | 0x10  # SSH_FXF_WRITE, APPEND, CREAT, TRUNC
PERMISSION_DENIED = 3
SIMPLE = {SETSTAT: "setstat", REMOVE: "remove", MKDIR: "mkdir", RMDIR: "rmdir"}
PAIRED = {RENAME: "rename", SYMLINK: "symlink"}
PAIRED_EXTENSIONS = {b"posix-rename@openssh.com": "rename", b"hardlink@openssh.com": "link"}
REFUSED_AS = {**SIMPLE, **PAIRED, FSETSTAT: "setstat", WRITE: "write", EXTENDED: "open"}


class RecordOperation(Protocol):
    """Records one operation; see `FileRecord`."""

    def __call__(self, operation: str, path: str, *, target: str | None = None, bytes: int = 0, refused: bool = False,
                 error: str | None = None, sha256: str | None = None,
                 sent_as: str | None = None) -> None: ...  # fmt: skip


class Digest:
    """The SHA-256 of a file that passes in order from its first byte; None once it does not."""

    __slots__ = ("_hash", "_next")

    def __init__(self) -> None:
        self._hash: Any = sha256()
        self._next = 0

    def update(self, offset: int, data: bytes | memoryview) -> None:
        """Add `data`, which is at `offset` of the file."""
        if self._hash is not None and data:
            if offset == self._next:
                self._hash.update(data)
                self._next += len(data)
            else:
                self._hash = None

    def hexdigest(self) -> str | None:
        return None if self._hash is None else str(self._hash.hexdigest())


class OpenFile:
    """An open handle of the origin."""

    __slots__ = ("path", "read", "read_digest", "writes", "written", "written_digest")

    def __init__(self, path: str, writes: bool, hashes: bool) -> None:
        self.path, self.writes = path, writes
        self.read = self.written = 0
        self.read_digest = Digest() if hashes else None
        self.written_digest = Digest() if hashes else None


class PendingRequest(NamedTuple):
    """A request without an answer yet."""

    kind: int
    path: str = ""
    target: str | None = None
    operation: str = ""
    handle: bytes = b""
    writes: bool = False
    offset: int = 0


class SftpTap:
    """Observes the stream. The client's packets are forwarded whole; of the origin's, only the heads are parsed."""

    def __init__(
        self, record: RecordOperation, reply: Callable[[bytes], None], *, read_only: bool, hashes: bool = False
    ) -> None:
        """`reply` writes to the client. `hashes`: record the SHA-256 of each file as well."""
        self._record, self._reply, self._read_only, self._hashes = record, reply, read_only, hashes
        self._reading: tuple[Digest, int] | None = None  # where the rest of the origin's packet is added
        self._client, self._origin = bytearray(), bytearray()
        self._skip = 0  # bytes left of the origin's packet, after its head
        self._replies = bytearray()
        self._files: dict[bytes, OpenFile] = {}
        self._pending: dict[int, PendingRequest] = {}
        self._is_unparsable = False  # not sftp: stop observing

    def from_client(self, data: bytes) -> bytes:
        """The packets to forward."""
        if self._is_unparsable:
            return b"" if self._read_only else data
        held, passed = self._client, bytearray()
        held += data
        at = 0
        while len(held) - at >= 4:
            (length,) = struct.unpack_from("!I", held, at)
            if not 1 <= length <= MAX_PACKET:
                self._is_unparsable = True
                if not self._read_only:
                    passed += held[at:]
                held.clear()
                return bytes(passed)
            if len(held) - at < 4 + length:
                break
            packet = bytes(held[at : at + 4 + length])
            at += 4 + length
            try:
                passed += self._filter_request(packet)
            except (struct.error, IndexError):  # truncated fields: left to the origin
                if not self._read_only:
                    passed += packet
        del held[:at]
        if self._replies and not self._skip and not self._origin:
            self._reply(bytes(self._replies))
            self._replies.clear()
        return bytes(passed)

    def from_origin(self, data: bytes) -> bytes:
        """The data to forward, with the proxy's refusals inserted between packets."""
        if self._is_unparsable:
            return data
        at, size, borders = 0, len(data), -1
        while at < size:
            if self._skip:
                step = min(self._skip, size - at)
                if self._reading is not None:
                    self._hash(memoryview(data)[at : at + step])
                self._skip -= step
                at += step
            else:
                head = self._origin
                needed = 4 if len(head) < 4 else 4 + min(struct.unpack_from("!I", head)[0], HEAD_BYTES)
                step = min(needed - len(head), size - at)
                head += data[at : at + step]
                at += step
                if len(head) == 4 and struct.unpack_from("!I", head)[0] > 0:
                    continue
                if len(head) < max(needed, 4):
                    continue
                (length,) = struct.unpack_from("!I", head)
                self._skip = 4 + length - len(head)
                self._reading = None
                self._handle_response(bytes(head))
                head.clear()
            if not self._skip and not self._origin:
                borders = at
        if self._replies and borders >= 0:
            data = data[:borders] + bytes(self._replies) + data[borders:]
            self._replies.clear()
        return data

    def from_stderr(self, data: bytes) -> None:
        """Nothing to do: it is not part of a file."""

    def resized(self, columns: int, rows: int) -> None:
        """Nothing to do: it has no terminal."""

    def close(self, status: int | None = None) -> None:
        """Record files that were never closed."""
        for file in self._files.values():
            self._record_file(file, "the channel ended before the file was closed")
        self._files.clear()

    def _filter_request(self, packet: bytes) -> bytes:
        kind = packet[4]
        if kind == INIT:
            (version,) = struct.unpack_from("!I", packet, 5)
            return packet[:5] + struct.pack("!I", min(version, VERSION)) + packet[9:]
        (number,) = struct.unpack_from("!I", packet, 5)
        pending = self._parse(kind, packet)
        if self._read_only and not _is_harmless(kind, packet, pending):
            operation = (pending.operation if pending is not None else "") or REFUSED_AS.get(kind, "open")
            path = pending.path if pending is not None else ""
            if pending is not None and pending.handle in self._files:
                path = self._files[pending.handle].path
            if kind == OPEN:
                operation = "write"
            self._record(operation, path, target=pending.target if pending is not None else None, refused=True)
            self._replies += _status(number, "files may be read only")
            return b""
        if pending is not None and len(self._pending) < MAX_OPEN:
            self._pending[number] = pending
        return packet

    def _parse(self, kind: int, packet: bytes) -> PendingRequest | None:
        if kind == OPEN:
            name, at = _string(packet, 9)
            (flags,) = struct.unpack_from("!I", packet, at)
            return PendingRequest(kind, escaped(name), writes=bool(flags & WRITES))
        if kind == CLOSE:
            return PendingRequest(kind, handle=_string(packet, 9)[0])
        if kind == READ:
            handle, at = _string(packet, 9)
            return PendingRequest(kind, handle=handle, offset=int.from_bytes(packet[at : at + 8], "big"))
        if kind == WRITE:
            handle, at = _string(packet, 9)
            offset, count = struct.unpack_from("!QI", packet, at)
            if (file := self._files.get(handle)) is not None and not self._read_only:
                file.written += count
                if file.written_digest is not None:
                    file.written_digest.update(offset, memoryview(packet)[at + 12 : at + 12 + count])
            return PendingRequest(kind, handle=handle) if self._read_only else None
        if kind in SIMPLE:
            return PendingRequest(kind, escaped(_string(packet, 9)[0]), operation=SIMPLE[kind])
        if kind in PAIRED:
            first, at = _string(packet, 9)
            return PendingRequest(kind, escaped(first), escaped(_string(packet, at)[0]), PAIRED[kind])
        if kind == EXTENDED:
            name, at = _string(packet, 9)
            if name in PAIRED_EXTENSIONS:
                first, at = _string(packet, at)
                return PendingRequest(kind, escaped(first), escaped(_string(packet, at)[0]), PAIRED_EXTENSIONS[name])
        return None

    def _handle_response(self, head: bytes) -> None:
        if len(head) < 9 or not self._pending:
            return
        pending = self._pending.pop(int.from_bytes(head[5:9], "big"), None)
        if pending is None:
            return
        kind = head[4]
        code = int.from_bytes(head[9:13], "big") if kind == STATUS else 0
        error = None if code == 0 else _STATUS.get(code, f"status {code}")
        if pending.kind == OPEN:
            if kind == HANDLE and len(self._files) < MAX_OPEN:
                self._files[_string(head, 9)[0]] = OpenFile(pending.path, pending.writes, self._hashes)
            elif kind == STATUS:
                self._record("write" if pending.writes else "read", pending.path, error=error)
        elif pending.kind == READ:
            if kind == DATA and (file := self._files.get(pending.handle)) is not None:
                file.read += int.from_bytes(head[9:13], "big")
                if file.read_digest is not None:
                    self._reading = file.read_digest, pending.offset
                    self._hash(memoryview(head)[13 : 13 + int.from_bytes(head[9:13], "big")])
        elif pending.kind == CLOSE:
            if (file := self._files.pop(pending.handle, None)) is not None:
                self._record_file(file, error)
        elif pending.operation:
            self._record(pending.operation, pending.path, target=pending.target, error=error)

    def _hash(self, data: memoryview) -> None:
        """Add a piece of the answer to a read."""
        assert self._reading is not None
        digest, offset = self._reading
        digest.update(offset, data)
        self._reading = digest, offset + len(data)

    def _record_file(self, file: OpenFile, error: str | None) -> None:
        if file.writes:
            digest = None if file.written_digest is None else file.written_digest.hexdigest()
            self._record("write", file.path, bytes=file.written, error=error, sha256=digest)
        if file.read or not file.writes:
            digest = None if file.read_digest is None else file.read_digest.hexdigest()
            self._record("read", file.path, bytes=file.read, error=error, sha256=digest)


_STATUS = {1: None, 2: "no such file", 3: "permission denied", 4: "failure", 5: "bad message", 8: "not supported"}


def escaped(name: bytes) -> str:
    """A file name for records, with anything but printable UTF-8 as \\xNN."""
    text = name[:4_096].decode("utf-8", "surrogateescape")
    return "".join(each if each.isprintable() else _code(each) for each in text)


def _code(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:
        return f"\\x{number - 0xDC00:02x}"
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogatepass"))


def _is_harmless(kind: int, packet: bytes, pending: PendingRequest | None) -> bool:
    if kind == OPEN:
        return pending is not None and not pending.writes
    if kind == EXTENDED:
        return _string(packet, 9)[0] in HARMLESS_EXTENSIONS
    return kind in HARMLESS


def _string(packet: bytes, at: int) -> tuple[bytes, int]:
    """The string at `at`, and the position after it. struct.error: it is truncated."""
    (length,) = struct.unpack_from("!I", packet, at)
    end = at + 4 + length
    if end > len(packet):
        raise struct.error("cut short")
    return packet[at + 4 : end], end


def _status(number: int, message: str) -> bytes:
    text = message.encode()
    body = struct.pack("!BIII", STATUS, number, PERMISSION_DENIED, len(text)) + text + struct.pack("!I", 0)
    return struct.pack("!I", len(body)) + body
