"""Bodies that do not go straight on: held until it is known where they go, or shown part by part to `http_body`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from proxy.inspect.http.messages import Headers
from proxy.inspect.stream import SessionView
from proxy.verdict import Verdict

HOOK = "http_body"
PART_BYTES = 64 << 10  # at most: what fits into a message to the proxy


class Held:
    """A body that has come while it is not known where it goes."""

    __slots__ = ("_parts", "_trailers")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._trailers: Headers | None = None  # its end has come

    def data(self, data: bytes) -> None:
        """A part of the body."""
        self._parts.append(data)

    def end(self, trailers: Headers) -> None:
        """There is no more of it."""
        self._trailers = trailers

    def pass_on(self, data: Callable[[bytes], None], end: Callable[[Headers], None]) -> None:
        """Give it to whoever takes it, and hold it no longer."""
        parts, trailers = self._parts, self._trailers
        self.clear()
        for part in parts:
            data(part)
        if trailers is not None:
            end(trailers)

    def clear(self) -> None:
        """Nobody wants it."""
        self._parts, self._trailers = [], None


class BodyPart:
    """What the hook is given."""

    __slots__ = ("data", "exchange", "from_client", "is_first", "is_last")

    def __init__(self, exchange: Any, data: bytes, *, from_client: bool, is_first: bool, is_last: bool) -> None:
        self.exchange = exchange
        self.data = data
        self.from_client = from_client
        self.is_first = is_first
        self.is_last = is_last


class BodyOver:
    """What the hook has seen of this body is all that it will see."""

    __slots__ = ("from_client", "number")

    def __init__(self, number: int, *, from_client: bool) -> None:
        self.number = number
        self.from_client = from_client


class Carrier(Protocol):
    """The exchange whose body it is."""

    number: int

    def body_passed(self, data: bytes, *, from_client: bool) -> None:
        """Send this on."""
        ...

    def body_ended(self, trailers: Headers, *, from_client: bool) -> None:
        """All of it was sent on."""
        ...

    def body_answered(self, answer: str | Verdict) -> bool:
        """What the hook says of the whole exchange; whether it goes on."""
        ...

    def hold_body(self, *, from_client: bool) -> None:
        """Take no more of it."""
        ...

    def release_body(self, *, from_client: bool) -> None:
        """Go on."""
        ...

    def settle(self) -> None:
        """Send what was written."""
        ...


class BodyReader:
    """One body. While the hook is asked about a part its sender is held, so that little more than that is waiting."""

    def __init__(self, carrier: Carrier, session: SessionView, *, from_client: bool) -> None:
        self.is_over = False  # all of it was sent on, or nobody wants it any more
        self._carrier, self._session, self._from_client = carrier, session, from_client
        self._waiting = bytearray()
        self._trailers: Headers | None = None  # its end has come
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
        """The exchange is over, whatever became of the body."""
        if not self.is_over:
            self.is_over = True
            self._waiting.clear()
            if self._was_asked:
                self._session.tell_hook(HOOK, BodyOver(self._carrier.number, from_client=self._from_client))

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
