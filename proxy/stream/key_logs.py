"""Files of TLS session secrets, one per tenant that wants one (SSLKEYLOGFILE, draft-ietf-tls-keylogfile)."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping

from proxy.errors import ProxyError
from proxy.settings.inspection import Inspection

log = logging.getLogger(__name__)


class KeyLogs:
    """Append-only files, readable by their owner alone, as they decrypt captured traffic."""

    def __init__(self, tenants: Mapping[str, Inspection]) -> None:
        """Open the files. Raises ProxyError if one cannot be written."""
        self.paths = {name: each.key_log for name, each in tenants.items() if each.key_log is not None}
        self._files: dict[str, int] = {}
        for tenant, path in self.paths.items():
            try:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
                self._files[tenant] = os.open(path, flags, 0o600)
            except OSError as error:
                self.close()
                raise ProxyError(f"tenant '{tenant}': inspection.key_log: {path}: {error.strerror}") from error
            log.warning("tenant '%s': secrets of its TLS sessions are written to %s", tenant, path)

    def add(self, tenant: str, lines: bytes) -> None:
        """Append secrets. Those that do not fit on the disk are lost."""
        if tenant in self._files:
            with contextlib.suppress(OSError):
                os.write(self._files[tenant], lines)

    def close(self) -> None:
        """Close all files."""
        while self._files:
            os.close(self._files.popitem()[1])
