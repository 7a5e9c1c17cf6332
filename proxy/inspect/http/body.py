"""Bodies that are not forwarded at once: held until the request has an origin, or shown to the hook `http_body`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from proxy.inspect.http.messages import Headers
from proxy.inspect.stream import SessionView
from proxy.verdict import Verdict

HOOK = "http_body"
PART_BYTES = 64 << 10  # largest part, which fits into a message to the proxy


class HeldBody:
    """The part of a body that arrived before its destination was known."""

    __slots__ = ("_parts", "_trailers")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._trailers: Headers | None = None  # set once the body has ended

    def data(self, data: bytes) -> None:
        """A part of the body."""
        self._parts.append(data)

    def end(self, trailers: Headers) -> None:
        """There is no more of it."""
        self._trailers = trailers

    def pass_on(self, data: Callable[[bytes], None], end: Callable[[Headers], None]) -> None:
        """Pass it on to `data` and `end`, and release it."""
        parts, trailers = self._parts, self._trailers
        self.clear()
        for part in parts:
            data(part)
        if trailers is not None:
            end(trailers)

    def clear(self) -> None:
        """Discard it."""
        self._parts, self._trailers = [], None


class BodyPart:
    """The argument of the hook."""

    __slots__ = ("data", "exchange", "from_client", "is_first", "is_last")

    def __init__(self, exchange: Any, data: bytes, *, from_client: bool, is_first: bool, is_last: bool) -> None:
        self.exchange = exchange
        self.data = data
        self.from_client = from_client
        self.is_first = is_first
        self.is_last = is_last


class BodyEnd:
    """Reports that no more parts of this body follow."""

    __slots__ = ("from_client", "number")

    def __init__(self, number: int, *, from_client: bool) -> None:
        self.number = number
        self.from_client = from_client


class Carrier(Protocol):
    """The exchange, as a body's reader sees it."""

    number: int

    def body_passed(self, data: bytes, *, from_client: bool) -> None:
        """Forward a part."""
        ...

    def body_ended(self, trailers: Headers, *, from_client: bool) -> None:
        """Forward the end."""
        ...

    def body_answered(self, answer: str | Verdict) -> bool:
        """Apply the hook's answer to the exchange. Returns whether the exchange continues."""
        ...

    def hold_body(self, *, from_client: bool) -> None:
        """Pause its sender."""
        ...

    def release_body(self, *, from_client: bool) -> None:
        """Resume its sender."""
        ...

    def settle(self) -> None:
        """Flush what was written."""
        ...


class BodyReader:
    """Shows one body to the hook, part by part. Its sender is paused during each question, to bound what is held."""

    def __init__(self, carrier: Carrier, session: SessionView, *, from_client: bool) -> None:
        self.is_over = False  # all of it was forwarded, or it was discarded
        self._carrier, self._session, self._from_client = carrier, session, from_client
        self._waiting = bytearray()
        self._trailers: Headers | None = None  # set once the body has ended
        self._is_asking = self._was_asked = False

    def data(self, data: bytes) -> None:
        """A part of the body."""
        self._waiting += data
        self._ask()

    def end(self, trailers: Headers) -> None:
        """There is no more of it."""
        self._trailers = trailers
        self._ask()

    def stop(self) -> None:
        """Stop: the exchange has ended."""
        if not self.is_over:
            self.is_over = True
            self._waiting.clear()
            if self._was_asked:
                self._session.notify_hook(HOOK, BodyEnd(self._carrier.number, from_client=self._from_client))

    def _ask(self) -> None:
        if self._is_asking:
            self._carrier.hold_body(from_client=self._from_client)
            return
        if self.is_over or (not self._waiting and self._trailers is None):
            return
        data = bytes(self._waiting[:PART_BYTES])
        del self._waiting[:PART_BYTES]
        is_last = not self._waiting and self._trailers is not None
        is_first = not self._was_asked
        self._is_asking = self._was_asked = True
        self._carrier.hold_body(from_client=self._from_client)
        part = BodyPart(self._carrier, data, from_client=self._from_client, is_first=is_first, is_last=is_last)
        self._session.ask(HOOK, part, lambda answer: self._answered(part, answer))

    def _answered(self, part: BodyPart, answer: bytes | str | Verdict | None) -> None:
        if self.is_over:
            return
        self._is_asking = False
        if isinstance(answer, bytes):
            self._pass(answer, is_last=part.is_last)
        elif answer is None or self._carrier.body_answered(answer):
            self._pass(part.data, is_last=part.is_last)
        self._carrier.settle()

    def _pass(self, data: bytes, *, is_last: bool) -> None:
        if data:
            self._carrier.body_passed(data, from_client=self._from_client)
        if is_last:
            self.is_over = True
            self._carrier.body_ended(self._trailers or [], from_client=self._from_client)
        elif self._waiting or self._trailers is not None:
            self._ask()
        else:
            self._carrier.release_body(from_client=self._from_client)
