"""The client of the control API, as command-line tools use it."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from proxy.control.listing import CHILD_KINDS
from proxy.control.schema import (
    AuthorityInfo,
    ChildrenAnswer,
    Exported,
    FlowRecord,
    FlowsAnswer,
    GroupsAnswer,
    HostKey,
    Lost,
    Recording,
    Rotation,
    RouteInfo,
    RoutesChange,
    Screen,
    Status,
    TunnelInfo,
)
from proxy.flow.child import TYPES
from proxy.policy.answers import Explanation, PolicyInfo, Question, Reloaded

T = TypeVar("T")
Pairs = Iterable[tuple[str, str]]
TIMEOUT_S = 30.0
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}
_decoder_lock = threading.Lock()  # msgspec inspects a type on first use, and crashes if two threads do that at once


class ControlError(Exception):
    """A failed request, with the reason in one sentence. `status` is the HTTP status if the proxy refused it."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ProxyGone(ControlError):
    """Nothing listens on the socket: the proxy is not running."""


class _Items(msgspec.Struct):
    items: list[msgspec.Raw]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float | None) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path
        self.socket: socket.socket  # kept since http.client drops `sock` if the response has "Connection: close"

    def connect(self) -> None:
        self.socket = self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(self.timeout)
        self.socket.connect(self._path)


class ControlClient:
    """A client of the proxy at the socket `path`. Each call opens a connection, and raises ControlError if it fails."""

    def __init__(self, path: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self._path, self._timeout_s = path, timeout_s

    def status(self) -> Status:
        return self._items(Status, "/v1/status")[0]

    def tunnels(self, tenant: str | None = None) -> list[TunnelInfo]:
        return self._items(TunnelInfo, "/v1/tunnels", [] if tenant is None else [("tenant", tenant)])

    def routes(self, tenant: str | None = None) -> list[RouteInfo]:
        return self._items(RouteInfo, "/v1/routes", [] if tenant is None else [("tenant", tenant)])

    def set_routes(self, change: RoutesChange) -> list[RouteInfo]:
        """Replace all routes of one virtual network, and return them."""
        answer = self._request("PUT", "/v1/routes", body=msgspec.json.encode(change))
        return [self._decode(RouteInfo, item) for item in self._decode(_Items, answer).items]

    def policies(self, tenant: str | None = None, *, text: bool = False) -> list[PolicyInfo]:
        """The policies in force: those for all tenants and, with `tenant`, those for this one only."""
        pairs = [("tenant", tenant)] if tenant is not None else []
        return self._items(PolicyInfo, "/v1/policies", [*pairs, ("text", "true")] if text else pairs)

    def authorities(self, tenant: str | None = None) -> list[AuthorityInfo]:
        """The authorities that clients must trust; a named tenant's is created if missing."""
        return self._items(AuthorityInfo, "/v1/ca", [] if tenant is None else [("tenant", tenant)])

    def rotate_authority(self, rotation: Rotation) -> AuthorityInfo:
        """Start a rotation; a new authority takes over after the overlap. Raises ControlError if that is impossible."""
        answer = self._request("POST", "/v1/ca/rotate", body=msgspec.json.encode(rotation))
        return self._decode(AuthorityInfo, self._decode(_Items, answer).items[0])

    def reload(self) -> Reloaded | None:
        """Reload the policy files. Returns None if the proxy has none.

        Raises ControlError with status 400 if a file is invalid; then nothing has changed.
        """
        found = self._decode(_Items, self._request("POST", "/v1/reload", body=b"")).items
        return self._decode(Reloaded, found[0]) if found else None

    def explain_policy(self, question: Question) -> Explanation | None:
        """The decision that a flow would get, or None if no policy covers it."""
        answer = self._request("POST", "/v1/policies/explain", body=msgspec.json.encode(question))
        found = self._decode(_Items, answer).items
        return self._decode(Explanation, found[0]) if found else None

    def metrics(self) -> str:
        """The counters as Prometheus text."""
        return self._request("GET", "/metrics").decode()

    def flows(self, pairs: Pairs) -> FlowsAnswer:
        """The flows selected by the parameters (`proxy.control.schema.LIST_PARAMETERS`)."""
        return self._decode(FlowsAnswer, self._request("GET", "/v1/flows", pairs))

    def children(self, plural: str, pairs: Pairs) -> ChildrenAnswer:
        """`requests`, `channels` or `files`, selected by the parameters (`proxy.control.schema.CHILD_PARAMETERS`)."""
        return decoded_children(plural, self._decode(ChildrenAnswer, self._request("GET", f"/v1/{plural}", pairs)))

    def groups(self, pairs: Pairs) -> GroupsAnswer:
        """Flows aggregated by the fields of the parameter `by`."""
        return self._decode(GroupsAnswer, self._request("GET", "/v1/flows/groups", pairs))

    def flow(self, flow_id: str, pairs: Pairs) -> FlowRecord:
        """One flow, live or ended. `pairs` name its tenant. Raises ControlError with status 404 if there is none."""
        return self._items(FlowRecord, f"/v1/flows/{quote(flow_id, safe='')}", pairs)[0]

    def kill(self, flow_id: str, pairs: Pairs) -> None:
        """End a live flow. Raises ControlError with status 404 if there is none."""
        self._request("DELETE", f"/v1/flows/{quote(flow_id, safe='')}", pairs)

    def host_keys(self, tenant: str | None = None) -> list[HostKey]:
        """The SSH host keys of this tenant, or of all."""
        return self._items(HostKey, "/v1/ssh/host-keys", [] if tenant is None else [("tenant", tenant)])

    def rotate_host_key(self, tenant: str) -> HostKey:
        """Create a new SSH host key, for new sessions."""
        answer = self._request("POST", f"/v1/ssh/host-keys/{quote(tenant, safe='')}", body=b"")
        return self._decode(HostKey, self._decode(_Items, answer).items[0])

    def end_ssh(self, identifier: str, pairs: Pairs) -> None:
        """End an SSH session, by its flow's id, or one channel. ControlError with status 404: there is none."""
        self._request("DELETE", f"/v1/ssh/sessions/{quote(identifier, safe='')}", pairs)

    @contextlib.contextmanager
    def watch_ssh(self, channel_id: str, pairs: Pairs) -> Iterator[Iterator[Screen]]:
        """The output of an SSH channel's terminal, until the channel ends."""
        connection = _UnixConnection(self._path, self._timeout_s)
        try:
            with self._open(connection, "GET", f"/v1/ssh/sessions/{quote(channel_id, safe='')}/watch", pairs) as lines:
                connection.socket.settimeout(None)  # the next event may be hours away
                yield (self._decode(Screen, line) for line in self._lines(lines))
        finally:
            connection.close()

    def recordings(self, identifier: str, pairs: Pairs) -> list[Recording]:
        """The recordings of an SSH channel, or of all channels of a flow."""
        return self._items(Recording, "/v1/ssh/recordings", [*pairs, ("id", identifier)])

    def recording(self, found: Recording) -> bytes:
        """The content of a recording. Raises ControlError with status 404 if it no longer exists."""
        path = f"/v1/ssh/recordings/{quote(found.name, safe='')}"
        return self._request("GET", path, [("tenant", found.tenant)])

    @contextlib.contextmanager
    def watch(self, pairs: Pairs) -> Iterator[Iterator[FlowRecord | Lost]]:
        """Events from entry into the context until the proxy stops, and the numbers of events that were skipped."""
        connection = _UnixConnection(self._path, self._timeout_s)
        try:
            response = self._open(connection, "GET", "/v1/flows/watch", pairs)
            with response:
                connection.socket.settimeout(None)  # the next event may be hours away
                yield map(_event, self._lines(response))
        finally:
            connection.close()

    @contextlib.contextmanager
    def export(self, pairs: Pairs) -> Iterator[Iterator[FlowRecord | Exported]]:
        """All flows selected by the parameters, then an `Exported`. Without that, the export was cut off."""
        connection = _UnixConnection(self._path, self._timeout_s)
        try:
            with self._open(connection, "GET", "/v1/flows/export", pairs) as response:
                yield map(_exported, self._lines(response))
        finally:
            connection.close()

    def _lines(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        rest = b""
        try:
            while data := response.read1(1 << 16):  # readline() would not detect a truncated response
                *lines, rest = (rest + data).split(b"\n")
                yield from lines
        except (OSError, http.client.HTTPException) as error:
            raise ControlError(f"the proxy on {self._path} went away in the middle of its answer") from error

    def _items(self, kind: type[T], path: str, pairs: Pairs = ()) -> list[T]:
        items = self._decode(_Items, self._request("GET", path, pairs)).items
        return [self._decode(kind, item) for item in items]

    def _request(self, method: str, path: str, pairs: Pairs = (), body: bytes | None = None) -> bytes:
        connection = _UnixConnection(self._path, self._timeout_s)
        try:
            return self._read(self._open(connection, method, path, pairs, body))
        finally:
            connection.close()

    def _open(
        self, connection: _UnixConnection, method: str, path: str, pairs: Pairs, body: bytes | None = None
    ) -> http.client.HTTPResponse:
        query = urlencode(list(pairs))
        try:
            connection.request(method, f"{path}?{query}" if query else path, body)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            is_gone = isinstance(error, FileNotFoundError | ConnectionRefusedError)
            raise (ProxyGone if is_gone else ControlError)(self._explain(error)) from error
        if response.status != 200:
            body = self._read(response)
            raise ControlError(_reason(body) or f"the proxy answered {response.status}", response.status)
        return response

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        try:
            return response.read()
        except (OSError, http.client.HTTPException) as error:
            raise ControlError(f"the proxy on {self._path} went away in the middle of its answer") from error

    def _decode(self, kind: type[T], data: bytes | msgspec.Raw) -> T:
        with _decoder_lock:
            decoder = _decoders.get(kind) or _decoders.setdefault(kind, msgspec.json.Decoder(kind))
        try:
            found: T = decoder.decode(data)
            return found
        except msgspec.DecodeError as error:
            raise ControlError(f"what answers on {self._path} is another version of the proxy: {error}") from error

    def _explain(self, error: Exception) -> str:
        path = self._path
        if isinstance(error, FileNotFoundError):
            return f"no proxy is running here: there is no control socket {path}"
        if isinstance(error, ConnectionRefusedError):
            return f"the proxy of the control socket {path} has ended"
        if isinstance(error, PermissionError):
            return f"not allowed to open the control socket {path}: only root and the user that runs the proxy are"
        if isinstance(error, TimeoutError):
            return f"the proxy on {path} did not answer in {self._timeout_s:g} s"
        if isinstance(error, http.client.HTTPException | ConnectionError):
            return f"the proxy on {path} went away instead of answering"
        return f"cannot talk to the control socket {path}: {error}"


_decode_event = msgspec.json.Decoder(dict[str, Any]).decode


def decoded_children(plural: str, answer: ChildrenAnswer) -> ChildrenAnswer:
    """The answer with its items decoded. Raises ControlError if they are of another version."""
    try:
        answer.items = [msgspec.convert(item, TYPES[CHILD_KINDS[plural]]) for item in answer.items]
    except msgspec.ValidationError as error:
        raise ControlError(f"what answers is another version of the proxy: {error}") from error
    return answer


def _event(line: bytes) -> FlowRecord | Lost:
    try:
        data = _decode_event(line)
        return msgspec.convert(data, Lost) if data.keys() == {"lost"} else msgspec.convert(data, FlowRecord)
    except msgspec.DecodeError as error:
        raise ControlError(f"an event that cannot be read: {error}") from error


def _exported(line: bytes) -> FlowRecord | Exported:
    try:
        kind: Any = Exported if line.startswith(b'{"exported":') else FlowRecord
        found: FlowRecord | Exported = msgspec.json.decode(line, type=kind)
        return found
    except msgspec.DecodeError as error:
        raise ControlError(f"a record that cannot be read: {error}") from error


def _reason(body: bytes) -> str:
    try:
        return str(msgspec.json.decode(body, type=dict[str, Any]).get("error", ""))
    except msgspec.DecodeError:
        return ""
