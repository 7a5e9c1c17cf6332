"""The messages between the proxy and an inspector, and the descriptors that accompany them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from proxy.flow.record import ClosedBy, CloseReason, TLSRecord
from proxy.policy.carried import CarriedPolicies
from proxy.session.facts import FlowFacts
from proxy.session.ssh import SSHRules
from proxy.verdict import Decision, RuleIdentity, Ruling, Verdict

ReadLevel = Literal["tls", "http", "ssh"]
# Unix time; `o`, `i`, `r` or `x` as in asciicast; what is shown, typed, or the size
ScreenEvent = tuple[float, str, str]


class TenantRules(msgspec.Struct, frozen=True, omit_defaults=True):
    """The rules for the sessions of one tenant."""

    minimum: str = "TLSv1.2"
    bad_certificate: Literal["page", "alert", "untrusted"] = "page"
    roots: str = ""  # PEM
    system_trust: bool = True
    crl: str = ""  # PEM
    client_certificates: Literal["pass", "ignore"] = "pass"
    logs_keys: bool = False
    learn_pinned: bool = False
    pinned_s: float = 86_400.0
    alt_svc: Literal["strip", "keep"] = "strip"
    ssh: SSHRules | None = None  # None: SSH is not inspected


# From the proxy to an inspector.


class Configure(msgspec.Struct, frozen=True):
    """An inspector's configuration, sent at start and after each change, in one or more `Part`s."""

    tenants: dict[str, TenantRules]
    sniff_s: float = 3.0
    handshake_s: float = 15.0
    hooks: tuple[str, ...] = ()  # the application's hooks about inspected sessions
    policies: CarriedPolicies | None = None  # None: none covers inspected sessions


class Part(msgspec.Struct, tag="part", frozen=True):
    """A piece of a `Configure`, which may be larger than a datagram."""

    data: bytes
    is_last: bool


class Open(msgspec.Struct, tag="open", frozen=True):
    """A session, with the client's and the origin's socket: both connected, nothing read."""

    session: int
    flow: FlowFacts
    level: ReadLevel


class LeafAnswer(msgspec.Struct, tag="leaf-answer", frozen=True):
    """A certificate with its chain and its key in PEM, or the reason why there is none."""

    request: int
    chain: bytes = b""
    key: bytes = b""
    error: str | None = None
    renew_at: float = float("inf")  # Unix seconds; after that, request a new one


class DialAnswer(msgspec.Struct, tag="dial-answer", frozen=True):
    """A connected socket is attached, or the reason why there is none."""

    request: int
    error: str | None = None
    cause: str | None = None  # a `CloseReason`


class LimitAnswer(msgspec.Struct, tag="limit-answer", frozen=True):
    """The denial of a request that exceeds a limit; None: it was counted."""

    request: int
    ruling: Ruling | None = None


class HookAnswer(msgspec.Struct, tag="hook-answer", frozen=True):
    """The application's answer; None: it has none."""

    request: int
    verdict: Verdict | None = None
    is_failure: bool = False  # the hook has failed, and this verdict replaces its own
    data: bytes | None = None  # replaces a part of a body
    is_more: bool = False  # more of that data follows


class CertificateAnswer(msgspec.Struct, tag="certificate-answer", frozen=True):
    """An SSH user certificate, or the reason why there is none."""

    request: int
    certificate: str | None = None
    error: str | None = None


class SignatureAnswer(msgspec.Struct, tag="signature-answer", frozen=True):
    """A signature as in RFC 4253 6.6, or the reason why there is none."""

    request: int
    signature: bytes = b""
    error: str | None = None


class FingerprintsAnswer(msgspec.Struct, tag="fingerprints-answer", frozen=True):
    """SHA-256 digests of the origin's host keys from DNS; empty if DNS has none that can be trusted."""

    request: int
    digests: list[bytes] = []


class RecordingAnswer(msgspec.Struct, tag="recording-answer", frozen=True):
    """The descriptor of a new file is attached, or the reason why there is none."""

    request: int
    error: str | None = None


class Kill(msgspec.Struct, tag="kill", frozen=True):
    """The proxy has ended the session: discard it."""

    session: int


class WatchChannel(msgspec.Struct, tag="watch-channel", frozen=True):
    """Start or stop to send the output of an SSH channel's terminal."""

    session: int
    channel: str
    is_wanted: bool


class EndChannel(msgspec.Struct, tag="end-channel", frozen=True):
    """End an SSH channel, or (None) all channels of the session; the user sees the reason."""

    session: int
    channel: str | None
    why: str


class Drain(msgspec.Struct, tag="drain", frozen=True):
    """End all sessions gracefully."""


# From an inspector to the proxy.


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """The inspector has dropped its privileges; the message lists those that it could not drop."""

    shortfalls: list[str] = []


class SessionFacts(msgspec.Struct, tag="session-facts", frozen=True):
    """Facts about the session, for the flow's record."""

    session: int
    protocol: str | None = None
    level: ReadLevel | None = None
    tls: TLSRecord | None = None
    decisions: list[Decision] = []


class Pass(msgspec.Struct, tag="pass", frozen=True):
    """Nothing was read from the session, and nothing needs to be: relay it."""

    session: int


class Ended(msgspec.Struct, tag="ended", frozen=True):
    """The session is over, and the inspector has closed its descriptors. `cut`: reset the remaining connections."""

    session: int
    reason: CloseReason
    by: ClosedBy
    cut: Literal["", "client", "origin", "both"] = ""
    history: str = ""  # in Zeek's letters, as the inspector saw it


class Record(msgspec.Struct, tag="record", frozen=True):
    """A child record of the flow: a request, an SSH channel, and so on."""

    session: int
    child: bytes  # JSON
    kind: str  # the name of its structure


class Records(msgspec.Struct, tag="records", frozen=True):
    """Several records, of any sessions."""

    records: list[Record]


class TerminalOutput(msgspec.Struct, tag="terminal-output", frozen=True):
    """The output of an SSH channel's terminal, for its watchers."""

    session: int
    channel: str
    events: list[ScreenEvent] = []
    size: tuple[int, int] | None = None  # columns and rows, in the first message
    lost: int = 0  # characters skipped after these events
    is_over: bool = False


class LeafRequest(msgspec.Struct, tag="leaf-request", frozen=True):
    """Request a leaf certificate for this name; with `untrusted`, of an authority that clients do not trust."""

    request: int
    session: int
    name: str
    untrusted: bool = False


class CertificateRequest(msgspec.Struct, tag="certificate-request", frozen=True):
    """Request an SSH user certificate for a key that was created for this session."""

    request: int
    session: int
    public_key: str
    user: str  # the user name at the origin
    identity: str  # authenticated by the client


class SignatureRequest(msgspec.Struct, tag="signature-request", frozen=True):
    """Request a signature by a key that never leaves the proxy: the tenant's host key over an exchange hash
    (RFC 4253 8), or the key for origins over an authentication request (RFC 4252 7)."""

    request: int
    session: int
    key: Literal["host", "onward"]
    public: str  # its public key: of the session's start, and perhaps rotated since
    data: bytes
    algorithm: str = "ssh-ed25519"


class FingerprintsRequest(msgspec.Struct, tag="fingerprints-request", frozen=True):
    """Request the host keys of the flow's origin in DNS (SSHFP, RFC 4255)."""

    request: int
    session: int


class RecordingRequest(msgspec.Struct, tag="recording-request", frozen=True):
    """Request a file of this name for the recording of a channel."""

    request: int
    session: int
    name: str


class DialRequest(msgspec.Struct, tag="dial-request", frozen=True):
    """Request a socket connected to this origin, by the flow's off-ramp; without a host, to the flow's own origin."""

    request: int
    session: int
    host: str | None = None
    port: int = 0


class DialClosed(msgspec.Struct, tag="dial-closed", frozen=True):
    """A connection opened by a `DialRequest` has been closed."""

    session: int
    request: int


class LimitRequest(msgspec.Struct, tag="limit-request", frozen=True):
    """Count a request by the limits of these rules, which all inspectors share."""

    request: int
    session: int
    rules: tuple[RuleIdentity, ...]


class HookRequest(msgspec.Struct, tag="hook-request", frozen=True):
    """Ask the application's hook, with its argument as `proxy.inspect.hook_arguments` encodes it."""

    request: int
    session: int
    hook: str
    argument: dict[str, Any]


class HookData(msgspec.Struct, tag="hook-data", frozen=True):
    """Bytes that do not fit into `HookRequest`, sent before it."""

    request: int
    session: int
    data: bytes


class HookNotice(msgspec.Struct, tag="hook-notice", frozen=True):
    """Inform the application, without an answer: a body whose parts a hook has seen is complete."""

    session: int
    hook: str
    argument: dict[str, Any]


class HostException(msgspec.Struct, tag="host-exception", frozen=True):
    """Sessions with this host should not be inspected. Sent by one inspector to the proxy, and by it to all."""

    session: int
    host: str
    why: str
    client: str = ""  # the address of the client that it is about; empty: all
    tenant: str = ""  # filled in by the proxy
    is_over: bool = False  # True: it may be inspected again


class Secrets(msgspec.Struct, tag="secrets", frozen=True):
    """Secrets of TLS sessions, for tenants that log them: lines of the SSLKEYLOGFILE format."""

    tenant: str
    lines: bytes


ToInspector = (
    Part
    | Open
    | LeafAnswer
    | DialAnswer
    | CertificateAnswer
    | SignatureAnswer
    | FingerprintsAnswer
    | RecordingAnswer
    | LimitAnswer
    | HookAnswer
    | HostException
    | Kill
    | Drain
    | WatchChannel
    | EndChannel
)
ToProxy = (
    Ready
    | SessionFacts
    | Pass
    | Ended
    | Records
    | LeafRequest
    | DialClosed
    | DialRequest
    | CertificateRequest
    | SignatureRequest
    | FingerprintsRequest
    | RecordingRequest
    | LimitRequest
    | HookRequest
    | HookData
    | HookNotice
    | HostException
    | TerminalOutput
    | Secrets
)

PART_BYTES = 64 << 10


def parts(configuration: Configure) -> Iterator[Part]:
    """The configuration in pieces that fit into a datagram."""
    data = encode(configuration)
    for start in range(0, len(data), PART_BYTES):
        yield Part(data[start : start + PART_BYTES], start + PART_BYTES >= len(data))


encode = msgspec.msgpack.Encoder().encode
decode_configuration = msgspec.msgpack.Decoder(Configure).decode
decode_to_inspector = msgspec.msgpack.Decoder(ToInspector).decode
decode_to_proxy = msgspec.msgpack.Decoder(ToProxy).decode
