"""SSH in the control API: host keys, open channels, recordings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from proxy.ca.ssh import SSHKeys, fingerprint, sshfp
from proxy.control.schema import HostKey, Recording
from proxy.errors import ProxyError
from proxy.session.messages import EndChannel, TerminalOutput
from proxy.settings.model import TenantSettings
from proxy.stream.inspectors import Inspectors
from proxy.telemetry.recordings import RECORDING, recordings_of


class SSHView:
    """The `SSHView` of `proxy.control.schema`."""

    def __init__(
        self, inspectors: Inspectors, keys: SSHKeys, tenants: Mapping[str, TenantSettings], state: str
    ) -> None:
        self._inspectors, self._keys = inspectors, keys
        self._tenants = [name for name, tenant in tenants.items() if tenant.inspection.ssh is not None]
        self._recordings = Path(state) / "recordings"

    def host_keys(self, tenant: str | None) -> list[HostKey]:
        """The host keys of this tenant, or of all."""
        return [self._host_key(name) for name in self._of(tenant)]

    def rotate(self, tenant: str) -> HostKey:
        """Create a new host key for later sessions. Raises ProxyError if the tenant's SSH is not inspected."""
        if tenant not in self._tenants:
            raise ProxyError(f"SSH sessions of tenant '{tenant}' are not inspected: it has no host key")
        self._keys.rotate_host_key(tenant)
        self._inspectors.renew_ssh(tenant)
        return self._host_key(tenant)

    def end_channel(self, channel_id: str, tenant: str | None, why: str) -> bool:
        """End an open channel, or all of a flow; users are shown `why`. Returns False if no such session is live."""
        flow_id, _, number = channel_id.rpartition(".")
        found = self._inspectors.session_of(flow_id or number, self._of(tenant))
        if found is None:
            return False
        session, inspector = found
        inspector.send(EndChannel(session, channel_id if flow_id else None, why))
        return True

    def watch_channel(
        self, channel_id: str, tenant: str | None, watch: Callable[[TerminalOutput], None]
    ) -> Callable[[], None] | None:
        """Watch a channel's terminal. Returns a function that ends the watch; None if no such session is live."""
        found = self._inspectors.session_of(channel_id.rpartition(".")[0], self._of(tenant))
        if found is None:
            return None
        session, inspector = found
        return self._inspectors.terminals.watch(session, inspector, channel_id, watch)

    def recordings(self, identifier: str, tenant: str | None) -> list[Recording]:
        """The recordings of a channel, or of all channels of a flow, in order."""
        return [found for each in self._of(tenant) for found in recordings_of(self._recordings / each, identifier)]

    def recording(self, name: str, tenant: str | None) -> Path | None:
        """The file with this name, or None if these tenants have none."""
        if RECORDING.fullmatch(name) is None:
            return None
        paths = (self._recordings / each / name for each in self._of(tenant))
        return next((path for path in paths if path.is_file()), None)

    def _of(self, tenant: str | None) -> Collection[str]:
        return self._tenants if tenant is None else [each for each in self._tenants if each == tenant]

    def _host_key(self, tenant: str) -> HostKey:
        key = self._keys.host_public_key(tenant)
        return HostKey(
            tenant=tenant,
            public_key=key,
            fingerprint=fingerprint(key),
            sshfp=sshfp(key),
            previous=self._keys.previous_host_key(tenant),
            user_ca=self._keys.user_ca(tenant),
        )
