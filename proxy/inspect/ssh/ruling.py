"""Decides about a channel by the tenant's settings, policies and hooks, in this order; and keeps its record."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

from proxy.flow.ssh import ChannelRecord, FileRecord
from proxy.inspect.ssh.channels import Back, PairedChannel, Tap
from proxy.inspect.ssh.hook_arguments import ChannelRequest, ExecRequest
from proxy.inspect.ssh.text import printable
from proxy.inspect.ssh.transfers import Transfer, transfer_of
from proxy.verdict import Decision, Verdict

if TYPE_CHECKING:
    import asyncssh

    from proxy.inspect.ssh.view import SSHView


class Denied(Exception):
    """A denial, with its reason."""


class Owner(Protocol):
    """The session, as a channel sees it."""

    view: SSHView
    user: str
    identity: str
    method: str

    @property
    def principals(self) -> list[str]: ...

    @property
    def client(self) -> asyncssh.SSHServerConnection | None: ...

    @property
    def origin(self) -> asyncssh.SSHClientConnection | None: ...


class ChannelState:
    """One channel, from its request to its record."""

    def __init__(self, owner: Owner, channel_id: str) -> None:
        self.owner, self.channel_id = owner, channel_id
        self.kind = ""
        self.command: str | None = None
        self.subsystem: str | None = None
        self.host: str | None = None
        self.port: int | None = None
        self.protocol: str | None = None  # detected in a forwarded connection
        self.terminal: str | None = None
        self.tap: Tap | None = None
        self.back: PairedChannel | None = None
        self.error: str | None = None
        self.reason = ""
        self.recording: str | None = None
        self.decisions: list[Decision] = []
        self.is_denied = self.is_over = False
        self._start = time.time_ns()
        self._started = time.monotonic()

    def begin(self, kind: str, *, command: str | None = None, subsystem: str | None = None, host: str | None = None,
              port: int | None = None) -> None:  # fmt: skip
        """Note what is requested."""
        self.kind, self.command, self.subsystem, self.host, self.port = kind, command, subsystem, host, port

    @property
    def transfer(self) -> Transfer | None:
        """How it moves files; None if it does not."""
        if self.subsystem == "sftp":
            return "sftp"
        return None if self.command is None else transfer_of(self.command)

    def facts(self) -> dict[str, Any]:
        """The fields for rules of the phase `ssh`, beside those of the flow."""
        owner = self.owner
        return {
            "ssh.user": owner.user,
            "ssh.principal": owner.identity,
            "ssh.channel": self.kind if self.subsystem != "sftp" else "sftp",
            "ssh.command": self.command or "",
            "ssh.subsystem": self.subsystem or "",
            "ssh.forward.host": self.host or "",
            "ssh.forward.port": self.port or 0,
            "ssh.reason": self.reason,
        }

    def file(self, operation: Any, path: str, **more: Any) -> None:
        """Record an operation on a file."""
        flow = self.owner.view.flow
        record = FileRecord(channel_id=self.channel_id, flow_id=flow.id, tenant=flow.tenant, user=flow.user,
                            time=time.time_ns(), operation=operation, path=path, **more)  # fmt: skip
        self.owner.view.record(record)

    def end(self, front: PairedChannel | None) -> None:
        """Record the channel at its end, if anything was requested in it."""
        self.is_over = True
        if self.tap is not None:
            self.tap.close(self.back.status if isinstance(self.back, Back) else None)
            self.tap = None
        if self.kind:
            self.owner.view.record(self._record(front, is_open=False))
            self.kind = ""

    def opened(self) -> None:
        """Record the channel while it is open, for whoever lists open ones."""
        self.owner.view.record(self._record(None, is_open=True))

    def _record(self, front: PairedChannel | None, *, is_open: bool) -> ChannelRecord:
        owner, back = self.owner, self.back
        flow = owner.view.flow
        clean = isinstance(back, Back)
        return ChannelRecord(
            channel_id=self.channel_id,
            flow_id=flow.id,
            tenant=flow.tenant,
            user=flow.user,
            start=self._start,
            duration_ms=(time.monotonic() - self._started) * 1000,
            is_open=is_open,
            kind=self.kind,  # type: ignore[arg-type]
            ssh_user=owner.user,
            identity=owner.identity or None,
            auth_method=owner.method or None,
            principals=owner.principals,
            command=self.command,
            subsystem=self.subsystem,
            forward_host=self.host,
            forward_port=self.port,
            forward_protocol=self.protocol,
            terminal=self.terminal,
            reason=self.reason or None,
            client_version=_version(owner.client, "client_version"),
            server_version=_version(owner.origin, "server_version"),
            client_bytes=front.received if front is not None else 0,
            origin_bytes=back.received if back is not None else 0,
            stderr_bytes=back.received_stderr if back is not None else 0,
            exit_status=back.status if clean and isinstance(back, Back) else None,
            exit_signal=back.signal[0] if isinstance(back, Back) and back.signal is not None else None,
            recording=self.recording,
            verdict="denied" if self.is_denied else "error" if self.error is not None else "allowed",
            decisions=self.decisions,
            error=self.error,
        )


async def decide(state: ChannelState) -> None:
    """Decide about a channel. Raises Denied."""
    try:
        _by_settings(state)
        _by_policy(state)
        is_session = state.kind in ("exec", "subsystem", "shell")
        target = None if state.host is None else (state.host, state.port or 0)
        channel = ChannelRequest(state.owner.user, "session" if is_session else state.kind, target)
        await _by_hook(state, "ssh_channel", channel)
        if is_session:
            await _by_hook(state, "ssh_exec", ExecRequest(channel, state.kind, state.command or state.subsystem or ""))
    except Denied as denied:
        state.is_denied = True
        state.error = str(denied)
        raise


def _by_settings(state: ChannelState) -> None:
    rules = state.owner.view.rules
    why = None
    if state.kind in ("direct-tcpip", "direct-streamlocal") and not rules.local_forwarding:
        why = "port forwarding is off"
    elif state.kind in ("tcpip-forward", "streamlocal-forward") and not rules.remote_forwarding:
        why = "remote port forwarding is off"
    elif state.kind == "auth-agent" and not rules.agent_forwarding:
        why = "agent forwarding is off"
    elif state.kind == "x11" and not rules.x11_forwarding:
        why = "X11 forwarding is off"
    elif rules.file_transfer == "none" and state.transfer is not None:
        why = "file transfer is off"
    elif rules.file_transfer == "read-only" and state.transfer == "write":
        why = "files may be read only"
    if why is not None:
        state.decisions.append(Decision("ssh", "settings", "deny", reason=why))
        raise Denied(why)


def _by_policy(state: ChannelState) -> None:
    ruling = state.owner.view.judge(state.facts())
    if ruling is not None:
        state.decisions += ruling.decisions
        if ruling.verdict.is_denial:
            raise Denied(ruling.verdict.reason or "policy")


async def _by_hook(state: ChannelState, hook: str, question: ChannelRequest | ExecRequest) -> None:
    owner = state.owner
    if not owner.view.has(hook):
        return
    answer = await owner.view.ask(hook, question)
    verdict = Verdict(action="deny", reason=answer) if isinstance(answer, str) else answer
    if isinstance(verdict, Verdict):
        state.decisions.append(Decision(hook, "hook", verdict.action, reason=verdict.reason))
        if verdict.is_denial:
            raise Denied(verdict.reason or hook)


def _version(conn: Any, name: str) -> str | None:
    version = conn.get_extra_info(name) if conn is not None else None
    return version if version is None else printable(str(version), 255)
