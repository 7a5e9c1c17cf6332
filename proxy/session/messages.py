"""The messages between the proxy and an inspector; each says which descriptors accompany it."""

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
ScreenEvent = tuple[
    float, str, str
]  # Unix time; `o`, `i`, `r` or `x` as in asciicast; what is shown, typed, or the size


class TenantRules(msgspec.Struct, frozen=True, omit_defaults=True):
    """What holds for the sessions of one tenant."""

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
    ssh: SSHRules | None = None  # None: SSH is passed


# From the proxy to an inspector.


class Configure(msgspec.Struct, frozen=True):
    """What an inspector is told at first, and again after each change, in as many `Part`s as it takes."""

    tenants: dict[str, TenantRules]
    sniff_s: float = 3.0
    handshake_s: float = 15.0
    hooks: tuple[str, ...] = ()  # those of the application's that are asked about what is read
    policies: CarriedPolicies | None = None  # None: none speaks of what is read


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
    """A certificate with its chain and its key, PEM, or why there is none."""

    request: int
    chain: bytes = b""
    key: bytes = b""
    error: str | None = None
    renew_at: float = float("inf")  # Unix seconds: from then on a new one is to be asked for


class DialAnswer(msgspec.Struct, tag="dial-answer", frozen=True):
    """A connected socket beside it, or why there is none."""

    request: int
    error: str | None = None
    cause: str | None = None  # a reason of `CloseReason`


class LimitAnswer(msgspec.Struct, tag="limit-answer", frozen=True):
    """The denial of a request that is over a limit; None: it was counted."""

    request: int
    ruling: Ruling | None = None


class HookAnswer(msgspec.Struct, tag="hook-answer", frozen=True):
    """What the application says; None: nothing."""

    request: int
    verdict: Verdict | None = None
    is_failure: bool = False  # the verdict stands for that of a hook which has failed
    data: bytes | None = None  # what goes on in place of a part of a body
    is_more: bool = False  # of that data


class CertificateAnswer(msgspec.Struct, tag="certificate-answer", frozen=True):
    """An SSH user certificate, or why there is none."""

    request: int
    certificate: str | None = None
    error: str | None = None


class SignatureAnswer(msgspec.Struct, tag="signature-answer", frozen=True):
    """A signature as RFC 4253 6.6 writes it, or why there is none."""

    request: int
    signature: bytes = b""
    error: str | None = None


class FingerprintsAnswer(msgspec.Struct, tag="fingerprints-answer", frozen=True):
    """SHA-256 digests of the origin's host keys, as DNS has them; none, where it has none that can be trusted."""

    request: int
    digests: list[bytes] = []


class RecordingAnswer(msgspec.Struct, tag="recording-answer", frozen=True):
    """The descriptor of a new file beside it, or why there is none."""

    request: int
    error: str | None = None


class Kill(msgspec.Struct, tag="kill", frozen=True):
    """The proxy has ended the session: forget it."""

    session: int


class WatchChannel(msgspec.Struct, tag="watch-channel", frozen=True):
    """Somebody watches the terminal of an SSH channel, or does not any more."""

    session: int
    channel: str
    is_wanted: bool


class EndChannel(msgspec.Struct, tag="end-channel", frozen=True):
    """The SSH channel, or (None) each one of the session, has to end; its user reads why."""

    session: int
    channel: str | None
    why: str


class Drain(msgspec.Struct, tag="drain", frozen=True):
    """Let every session end politely."""


# From an inspector to the proxy.


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """The inspector has given up all rights that it does not need: here is what is left of the promise."""

    shortfalls: list[str] = []


class Seen(msgspec.Struct, tag="seen", frozen=True):
    """What was found out about the session, for the flow's record."""

    session: int
    protocol: str | None = None
    level: ReadLevel | None = None
    tls: TLSRecord | None = None
    decisions: list[Decision] = []


class Pass(msgspec.Struct, tag="pass", frozen=True):
    """Nothing was taken from the session, and nobody wants to read it: relay it."""

    session: int


class Ended(msgspec.Struct, tag="ended", frozen=True):
    """The session is over: the inspector has closed its descriptors. `cut`: what is left gets a reset."""

    session: int
    reason: CloseReason
    by: ClosedBy
    cut: Literal["", "client", "origin", "both"] = ""
    history: str = ""  # Zeek's letters, of what the inspector saw


class Record(msgspec.Struct, tag="record", frozen=True):
    """A child record of the flow: a request, a message, and so on."""

    session: int
    child: bytes  # JSON
    kind: str  # the name of its structure


class Records(msgspec.Struct, tag="records", frozen=True):
    """Several, of whichever sessions."""

    records: list[Record]


class Shown(msgspec.Struct, tag="shown", frozen=True):
    """What the terminal of an SSH channel has shown, for who watches it."""

    session: int
    channel: str
    events: list[ScreenEvent] = []
    size: tuple[int, int] | None = None  # columns and rows, with the first
    lost: int = 0  # characters after these events that were too many to tell
    is_over: bool = False


class LeafWanted(msgspec.Struct, tag="leaf-wanted", frozen=True):
    request: int
    session: int
    name: str
    untrusted: bool = False


class CertificateWanted(msgspec.Struct, tag="certificate-wanted", frozen=True):
    """An SSH user certificate for a key that was made for this session."""

    request: int
    session: int
    public_key: str
    user: str  # the user name at the origin
    identity: str  # who has proved to be there


class SignatureWanted(msgspec.Struct, tag="signature-wanted", frozen=True):
    """A signature of a key that never leaves the proxy: the tenant's host key over an exchange hash (RFC 4253 8), or
    the key that origins are shown over a request to be let in (RFC 4252 7)."""

    request: int
    session: int
    key: Literal["host", "onward"]
    public: str  # its public half: the session began with this one, and there may be another by now
    data: bytes
    algorithm: str = "ssh-ed25519"


class FingerprintsWanted(msgspec.Struct, tag="fingerprints-wanted", frozen=True):
    """What DNS says of the host keys of the flow's origin (SSHFP, RFC 4255)."""

    request: int
    session: int


class RecordingWanted(msgspec.Struct, tag="recording-wanted", frozen=True):
    """A place to write the recording of a channel to: a file of this name."""

    request: int
    session: int
    name: str


class DialWanted(msgspec.Struct, tag="dial-wanted", frozen=True):
    """A socket that is connected to this origin, as the flow would leave; without a host, to the flow's own."""

    request: int
    session: int
    host: str | None = None
    port: int = 0


class LimitWanted(msgspec.Struct, tag="limit-wanted", frozen=True):
    """Count a request by the limits of these rules: they hold for all inspectors together."""

    request: int
    session: int
    rules: tuple[RuleIdentity, ...]


class HookWanted(msgspec.Struct, tag="hook-wanted", frozen=True):
    """What the application says about this, as `proxy.inspect.questions` puts it."""

    request: int
    session: int
    hook: str
    told: dict[str, Any]


class HookData(msgspec.Struct, tag="hook-data", frozen=True):
    """Bytes that do not fit into `HookWanted`: of the message that it is about, before it comes."""

    request: int
    session: int
    data: bytes


class HookTold(msgspec.Struct, tag="hook-told", frozen=True):
    """What nobody is asked about: a body that a hook has seen parts of is over."""

    session: int
    hook: str
    told: dict[str, Any]


class Learnt(msgspec.Struct, tag="learnt", frozen=True):
    """Sessions with this host are better not read. To the proxy from one inspector, and from there to all."""

    session: int
    host: str
    why: str
    tenant: str = ""  # filled in by the proxy
    is_over: bool = False  # it may be read again


class Secrets(msgspec.Struct, tag="secrets", frozen=True):
    """Secrets of TLS sessions of a tenant that wants them: lines as SSLKEYLOGFILE has them."""

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
    | Learnt
    | Kill
    | Drain
    | WatchChannel
    | EndChannel
)
ToProxy = (
    Ready
    | Seen
    | Pass
    | Ended
    | Records
    | LeafWanted
    | DialWanted
    | CertificateWanted
    | SignatureWanted
    | FingerprintsWanted
    | RecordingWanted
    | LimitWanted
    | HookWanted
    | HookData
    | HookTold
    | Learnt
    | Shown
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
