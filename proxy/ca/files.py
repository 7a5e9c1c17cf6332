"""Files of keys and certificates: written atomically and durably, and read in the forms of other tools."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.errors import ProxyError
from proxy.settings.inspection import ImportedAuthority

if TYPE_CHECKING:
    from proxy.ca.authority import Authority


def write(path: Path, data: bytes, mode: int) -> None:
    """Replace the file atomically and durably: after a crash, either the old or the new one exists."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.fchmod(descriptor, mode)
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)


def read_imported(imported: ImportedAuthority) -> Authority:
    """An authority from PEM or PKCS#12. ProxyError: the file and the fault."""
    from proxy.ca.authority import Authority

    file = imported.file
    try:
        password = imported.password
        if imported.password_file is not None:
            password = Path(imported.password_file).read_text().rstrip("\n")
        data = Path(file).read_bytes()
        if b"-----BEGIN " in data:
            return Authority.load(data, Path(imported.key).read_bytes() if imported.key else data, password)
        return Authority.load_pkcs12(data, password)
    except OSError as error:
        raise ProxyError(f"{error.filename}: {error.strerror}") from error
    except (ProxyError, UnicodeDecodeError) as error:
        raise ProxyError(f"{file}: {error}") from error
