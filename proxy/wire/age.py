"""age files (https://c2sp.org/age): encrypted incrementally to X25519 recipients, and decrypted with an identity.

`age -d`, rage and pyrage can read these files. The Python library only encrypts complete files, but a recording is
written while its session lasts. Randomness is passed in as arguments.
"""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from typing import Any

from proxy.wire.bech32 import decode as decode_bech32

VERSION = b"age-encryption.org/v1"
WRAPPING = b"age-encryption.org/v1/X25519"
RECIPIENT, IDENTITY = "age", "age-secret-key-"
CHUNK = 64 << 10
TAG = 16
FILE_KEY = NONCE = 16  # bytes
MAX_HEADER = 64 << 10


class AgeError(ValueError):
    """The file or key is invalid, for the reason in the message."""


def recipient(text: str) -> bytes:
    """The public key in `age1...`. AgeError: it is invalid."""
    return _key(text, RECIPIENT)


def identity(text: str) -> bytes:
    """The private key in `AGE-SECRET-KEY-1...`. AgeError: it is invalid."""
    return _key(text, IDENTITY)


class Encryptor:
    """Encrypts one file: write `header`, then everything that `update` and `finish` return, in order."""

    def __init__(self, recipients: Iterable[bytes], randomness: bytes) -> None:
        """`randomness`: `randomness_for` bytes, never used before. ValueError: another number of bytes."""
        keys = list(recipients)
        if len(randomness) != randomness_for(len(keys)):
            raise ValueError("too much or too little randomness")
        file_key, nonce = randomness[:FILE_KEY], randomness[FILE_KEY : FILE_KEY + NONCE]
        secrets = randomness[FILE_KEY + NONCE :]
        stanzas = [_stanza(key, secrets[32 * n : 32 * n + 32], file_key) for n, key in enumerate(keys)]
        head = VERSION + b"\n" + b"".join(stanzas) + b"---"
        self.header = head + b" " + _base64(_mac(file_key, head)) + b"\n" + nonce
        self._cipher, self._count, self._buffer = _payload_cipher(file_key, nonce), 0, bytearray()

    def update(self, data: bytes) -> bytes:
        """The encrypted chunks that `data` completes. The rest, at most 64 KiB, is buffered until the next call."""
        buffer, encrypted = self._buffer, bytearray()
        buffer += data
        while len(buffer) > CHUNK:  # a full chunk may be the last, which is marked as such
            encrypted += self._encrypt_chunk(bytes(buffer[:CHUNK]), is_last=False)
            del buffer[:CHUNK]
        return bytes(encrypted)

    def finish(self) -> bytes:
        """The last encrypted chunk."""
        return self._encrypt_chunk(bytes(self._buffer), is_last=True)

    def _encrypt_chunk(self, chunk: bytes, *, is_last: bool) -> bytes:
        encrypted: bytes = self._cipher.encrypt(_chunk_nonce(self._count, is_last), chunk, None)
        self._count += 1
        return encrypted


def randomness_for(recipients: int) -> int:
    """The number of random bytes that a file for this many recipients needs."""
    return FILE_KEY + NONCE + 32 * recipients


def decrypt(data: bytes, identities: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the decrypted chunks in `data`, a complete file or its beginning.

    AgeError: before the first chunk if no identity matches, after the last complete one if the file is truncated.
    """
    keys = list(identities)
    head, mac, at = _split_header(data)
    file_key = next((found for key in keys for found in _unwrap_file_keys(head, key)), None)
    if file_key is None:
        raise AgeError("it is encrypted to other keys than this identity's")
    if not hmac.compare_digest(_mac(file_key, head), mac):
        raise AgeError("its header was changed")
    nonce, rest = data[at : at + NONCE], memoryview(data)[at + NONCE :]
    cipher = _payload_cipher(file_key, nonce)
    return _decrypt_chunks(cipher, rest)


def _decrypt_chunks(cipher: Any, rest: memoryview) -> Iterator[bytes]:
    from cryptography.exceptions import InvalidTag

    for count, start in enumerate(range(0, max(len(rest), 1), CHUNK + TAG)):
        chunk = rest[start : start + CHUNK + TAG]
        is_last = start + CHUNK + TAG >= len(rest)
        try:
            yield cipher.decrypt(_chunk_nonce(count, is_last), chunk, None)
        except (InvalidTag, ValueError):
            if is_last and len(chunk) == CHUNK + TAG:
                yield _whole_chunk(cipher, count, chunk)
            raise AgeError("it is cut off or damaged here" if is_last else "it is damaged") from None


def _whole_chunk(cipher: Any, count: int, chunk: memoryview) -> bytes:
    """Decrypt a complete chunk at which the file is cut off; empty if the chunk is damaged."""
    from cryptography.exceptions import InvalidTag

    try:
        decrypted: bytes = cipher.decrypt(_chunk_nonce(count, False), chunk, None)
    except InvalidTag:
        return b""
    return decrypted


def _split_header(data: bytes) -> tuple[bytes, bytes, int]:
    """The bytes that the MAC covers, the MAC, and the offset of the payload."""
    if not data.startswith(VERSION + b"\n"):
        raise AgeError("it is no age file")
    mac_line = data.find(b"\n--- ", 0, MAX_HEADER)
    end = data.find(b"\n", mac_line + 1)
    if mac_line < 0 or end < 0:
        raise AgeError("its header is cut off")
    return data[: mac_line + 4], _decode_base64(data[mac_line + 5 : end]), end + 1


def _unwrap_file_keys(head: bytes, key: bytes) -> Iterator[bytes]:
    """Yield the file key from each stanza that the identity can decrypt."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    private = X25519PrivateKey.from_private_bytes(key)
    lines = head.split(b"\n")
    for number, line in enumerate(lines[:-1]):
        arguments = line.split(b" ")
        if arguments[:2] != [b"->", b"X25519"] or len(arguments) != 3:
            continue
        share, body = _decode_base64(arguments[2]), _decode_base64(lines[number + 1])
        try:
            shared = private.exchange(X25519PublicKey.from_public_bytes(share))
            public = private.public_key().public_bytes_raw()
            yield ChaCha20Poly1305(_derive_key(shared, share + public, WRAPPING)).decrypt(bytes(12), body, None)
        except (InvalidTag, ValueError):
            continue


def _stanza(key: bytes, secret: bytes, file_key: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    private = X25519PrivateKey.from_private_bytes(secret)
    share = private.public_key().public_bytes_raw()
    shared = private.exchange(X25519PublicKey.from_public_bytes(key))
    wrapped = ChaCha20Poly1305(_derive_key(shared, share + key, WRAPPING)).encrypt(bytes(12), file_key, None)
    return b"-> X25519 " + _base64(share) + b"\n" + _base64(wrapped) + b"\n"


def _payload_cipher(file_key: bytes, nonce: bytes) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    return ChaCha20Poly1305(_derive_key(file_key, nonce, b"payload"))


def _derive_key(secret: bytes, salt: bytes, info: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), 32, salt, info).derive(secret)


def _mac(file_key: bytes, head: bytes) -> bytes:
    return hmac.digest(_derive_key(file_key, b"", b"header"), head, "sha256")


def _chunk_nonce(count: int, is_last: bool) -> bytes:
    return count.to_bytes(11, "big") + bytes([is_last])


def _base64(data: bytes) -> bytes:
    return b64encode(data).rstrip(b"=")


def _decode_base64(text: bytes) -> bytes:
    try:
        return b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise AgeError("its header is damaged") from None


def _key(text: str, kind: str) -> bytes:
    expected = "age1..." if kind == RECIPIENT else "AGE-SECRET-KEY-1..."
    try:
        name, key = decode_bech32(text.strip())
    except ValueError as error:
        raise AgeError(f"expected {expected}: {error}") from None
    if name != kind or len(key) != 32:
        raise AgeError(f"expected {expected}")
    return key
