"""Time limits of an exchange, and the minimum pace of its client."""

from __future__ import annotations

from proxy.inspect.http.exchange import Exchange
from proxy.inspect.http.faults import Fault
from proxy.inspect.http.limits import Limits


def due(exchange: Exchange, limits: Limits) -> float:
    """When to call `expire`, on the session's clock."""
    if _waits_for_client(exchange):
        return exchange.pace_sample[0] + limits.body_s
    if exchange.response is None and exchange.request_sent is not None:
        return exchange.request_sent + limits.response_s
    return exchange.last_active + limits.stream_s


def expire(exchange: Exchange, now: float, limits: Limits) -> bool:
    """End the exchange if it has exceeded a limit. Returns whether it had."""
    check = _check_pace if _waits_for_client(exchange) else _check_silence
    fault = check(exchange, now, limits)
    if fault is None:
        return False
    exchange.refuse(fault[0], fault[1])
    return True


def _waits_for_client(exchange: Exchange) -> bool:
    """Whether it waits for its client: for the rest of a body of known length, or to take the response.

    A request of unknown length may be a stream, which may pause.
    """
    if exchange.is_complete or exchange.is_switched:
        return exchange.is_complete
    sends = not exchange.client_ended and not exchange.is_origin_full and exchange.request.length is not None
    return exchange.is_client_full or (sends and exchange.requester is not None)


def _check_silence(exchange: Exchange, now: float, limits: Limits) -> tuple[Fault, str] | None:
    if exchange.response is None and exchange.request_sent is not None:
        if now - exchange.request_sent < limits.response_s:
            return None
        return Fault.RESPONSE_TIMEOUT, f"no response within {limits.response_s:g} s"
    if now - exchange.last_active < limits.stream_s:
        return None
    return Fault.RESPONSE_TIMEOUT, f"nothing moved for {limits.stream_s:g} s"


def _check_pace(exchange: Exchange, now: float, limits: Limits) -> tuple[Fault, str] | None:
    since, bytes_before, queued_before = exchange.pace_sample
    if now - since < limits.body_s:
        return None
    is_origins = exchange.is_complete and not exchange.responder.is_behind and exchange.requester is not None
    queued = exchange.requester.queued if is_origins and exchange.requester is not None else exchange.responder.queued
    exchange.pace_sample = (now, exchange.request_bytes, queued)
    required = limits.body_rate * (now - since)
    if exchange.is_client_full or exchange.is_complete:
        # the queue has filled since the last check: the client has not been slow for long
        is_slow = queued_before > 0 and queued_before - queued < required and exchange.last_active <= since
        if is_slow and is_origins:
            return Fault.RESPONSE_TIMEOUT, f"the origin took fewer than {limits.body_rate} bytes/s"
        return (Fault.SLOW_READ, f"the client took fewer than {limits.body_rate} bytes/s") if is_slow else None
    is_slow = exchange.request_bytes - bytes_before < required
    return (Fault.SLOW_BODY, f"the client sent fewer than {limits.body_rate} bytes/s") if is_slow else None
