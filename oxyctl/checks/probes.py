"""Checks from inside a node, and their verdicts."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from oxyctl.checks.result import Verdict
from oxyctl.checks.session import Finished, Session
from oxyctl.render.units import count_text
from oxyctl.topology.checks import (
    DnsCheck,
    DroppedCheck,
    ExecCheck,
    HttpCheck,
    PingCheck,
    TcpCheck,
    UdpCheck,
    WebSocketCheck,
)
from oxyctl.topology.quantities import seconds, share, texts
from oxyctl.traffic.config import (
    AnyTraffic,
    DnsTraffic,
    HttpTraffic,
    PingTraffic,
    TcpTraffic,
    UdpTraffic,
    WebSocketTraffic,
)
from oxyctl.traffic.tally import Report

EXCERPT = 200
MAX_PINGS_PER_S = 20.0


async def http(check: HttpCheck, node: str, session: Session) -> Verdict:
    """Send one HTTP request."""
    traffic = HttpTraffic(
        target=check.url,
        method=check.method,
        headers=check.headers,
        family=check.family,
        http2=check.http2,
        ca=session.trusted(node, check.verify),
        count=1,
        timeout_s=check.timeout_s,
        detail=True,
    )
    report = await session.traffic(node, traffic)
    tried = f"{check.method} {check.url} from {node}{_to(report)}"
    expected = _and(f"status {_or(check.status)}", *(what for what, _ in _body_tests(check)))
    if report.detail is None:
        return Verdict(False, tried, expected, _failure(report))
    detail = report.detail
    is_met = detail["status"] in _list(check.status) and all(test(detail) for _, test in _body_tests(check))
    actual = f"status {detail['status']}, {count_text(detail['length'], 'byte')}"
    if not is_met and detail["length"]:
        actual += f" with SHA-256 {detail['sha256']}" if check.sha256 else f": {detail['body'][:EXCERPT]!r}"
    return Verdict(is_met, tried, expected, actual)


async def websocket(check: WebSocketCheck, node: str, session: Session) -> Verdict:
    """Send messages one after another."""
    traffic = WebSocketTraffic(
        target=check.url,
        family=check.family,
        http2=check.http2,
        ca=session.trusted(node, check.verify),
        count=check.count,
        size=check.size,
        timeout_s=check.timeout_s,
    )
    report = await session.traffic(node, traffic)
    messages = f"{count_text(check.count, 'message')} of {count_text(check.size, 'byte')}"
    tried = f"{messages} to {check.url} from {node}{_to(report)}"
    actual = f"{report.succeeded} came back" + (f"; {_failure(report)}" if report.errors else "")
    return Verdict(report.succeeded == check.count, tried, "all of them to come back", actual)


def _body_tests(check: HttpCheck) -> list[tuple[str, Callable[[dict[str, Any]], bool]]]:
    """The expectations of the body: in words, and as a test of a report's detail."""
    tests: list[tuple[str, Callable[[dict[str, Any]], bool]]] = []
    for text in texts(check.contains):
        tests.append((f"{text!r} in its body", lambda detail, text=text: text in detail["body"]))  # type: ignore[misc]  # mypy infers no lambda with a default
    if check.length is not None:
        tests.append((count_text(check.length, "byte"), lambda detail: detail["length"] == check.length))
    if check.sha256 is not None:
        tests.append((f"SHA-256 {check.sha256}", lambda detail: detail["sha256"] == check.sha256))
    return tests


async def tcp(check: TcpCheck, node: str, session: Session) -> Verdict:
    """Attempt one TCP connection."""
    report = await session.traffic(node, _once(TcpTraffic, check.to, check))
    actual = "connected" if report.succeeded else next(iter(report.errors), "nothing")
    tried = f"connect to {check.to} from {node}{_to(report)}"
    return Verdict(actual in _list(check.expect), tried, _or(check.expect), _timed(actual, report))


async def udp(check: UdpCheck, node: str, session: Session) -> Verdict:
    """Send datagrams at once; one by one if an ICMP error is expected, since a socket keeps only the last one."""
    traffic = UdpTraffic(
        target=check.to,
        family=check.family,
        count=check.count,
        concurrency=check.count if check.expect in ("answered", "timeout") else 1,
        size=check.size,
        timeout_s=check.timeout_s,
    )
    report = await session.traffic(node, traffic)
    datagrams = f"{count_text(check.count, 'datagram')} of {count_text(check.size, 'byte')}"
    tried = f"{datagrams} to {check.to} from {node}{_to(report)}"
    if check.expect == "answered":
        is_met = report.loss is not None and report.loss <= share(check.loss)
        return Verdict(is_met, tried, f"a loss of at most {share(check.loss):.1%}", _counts(report))
    return Verdict(set(report.errors) == {check.expect} and not report.succeeded, tried, check.expect, _counts(report))


async def ping(check: PingCheck, node: str, session: Session) -> Verdict:
    """Send echo requests, at most MAX_PINGS_PER_S."""
    traffic = PingTraffic(
        target=check.to,
        family=check.family,
        count=check.count,
        size=check.size,
        rate=MAX_PINGS_PER_S,
        timeout_s=check.timeout_s,
    )
    report = await session.traffic(node, traffic)
    slowest = report.latency_ms.max if report.latency_ms else None
    expected = f"a loss of at most {share(check.loss):.1%}"
    is_met = report.loss is not None and report.loss <= share(check.loss)
    if check.rtt is not None:
        expected = _and(expected, f"round trips of at most {seconds(check.rtt) * 1e3:g} ms")
        is_met = is_met and slowest is not None and slowest <= seconds(check.rtt) * 1e3
    actual = _counts(report) if slowest is None else f"{_counts(report)}, the slowest in {slowest:.2f} ms"
    return Verdict(
        is_met, f"{count_text(check.count, 'echo request')} to {check.to} from {node}{_to(report)}", expected, actual
    )


async def dns(check: DnsCheck, node: str, session: Session) -> Verdict:
    """Send one DNS query."""
    traffic = DnsTraffic(
        target=check.server,
        query=check.query,
        type=check.type,
        over=check.over,
        family=check.family,
        count=1,
        timeout_s=check.timeout_s,
        detail=True,
    )
    report = await session.traffic(node, traffic)
    tried = f"{check.query} {check.type} of {check.server} over {check.over} from {node}{_to(report)}"
    expected = _and(check.code.upper(), *(f"{value} among its answers" for value in check.answers))
    if report.detail is None:
        return Verdict(False, tried, expected, _failure(report))
    values = [answer["value"] for answer in report.detail["answers"]]
    is_met = report.detail["code"] == check.code.lower() and set(check.answers) <= set(values)
    return Verdict(is_met, tried, expected, f"{report.detail['code'].upper()}: {', '.join(values) or 'no answers'}")


async def program(check: ExecCheck, node: str, session: Session) -> Verdict:
    """Run one program to its end."""
    tried = f"`{check.summary()}` in {node}"
    contained = texts(check.contains)
    expected = _and(f"exit code {check.exit_code}", *(f"{text!r} in its output" for text in contained))
    if check.matches is not None:
        expected = _and(expected, f"output that matches {check.matches!r}")
    try:
        ended = await session.program(node, check.command, check.timeout_s)
    except TimeoutError:
        return Verdict(False, tried, expected, f"it was still running after {check.timeout_s:g} s, and was killed")
    is_met = ended.code == check.exit_code and all(text in ended.out for text in contained)
    is_met = is_met and (check.matches is None or re.search(check.matches, ended.out, re.MULTILINE) is not None)
    return Verdict(is_met, tried, expected, f"exit code {ended.code}" if is_met else _describe_end(ended))


async def dropped(check: DroppedCheck, node: str, session: Session) -> Verdict:
    """Send the same traffic to the canary, the forbidden target and the canary again, one after another."""
    before = await _arrives(check, check.canary, node, session)
    forbidden = await _arrives(check, check.to, node, session)
    after = await _arrives(check, check.canary, node, session)
    tried = f"{check.by} to {check.to} from {node}, between two to {check.canary}, which must arrive"
    expected = f"{check.to}: {_or(check.expect)}"
    for when, canary in (("before", before), ("after", after)):
        if canary != "arrived":
            actual = f"the canary {when} it did not arrive ({canary}), so nothing is proven; {check.to}: {forbidden}"
            return Verdict(False, tried, expected, actual)
    return Verdict(forbidden in check.expect, tried, expected, f"{check.to}: {forbidden}; both canaries arrived")


async def _arrives(check: DroppedCheck, target: str, node: str, session: Session) -> str:
    """`arrived`, or the error."""
    kinds = {"tcp": TcpTraffic, "udp": UdpTraffic, "ping": PingTraffic, "http": HttpTraffic}
    report = await session.traffic(node, _once(kinds[check.by], target, check))
    has_arrived = report.succeeded or report.statuses  # a 404 is an answer
    return "arrived" if has_arrived else next(iter(report.errors), "nothing")


def _once(kind: Callable[..., AnyTraffic], target: str, check: TcpCheck | DroppedCheck) -> AnyTraffic:
    return kind(target=target, family=check.family, count=1, timeout_s=check.timeout_s)


def _to(report: Report) -> str:
    return "" if report.address is None or report.address in report.target else f" ({report.address})"


def _failure(report: Report) -> str:
    return f"{next(iter(report.errors), 'nothing')}: {report.explanation}"


def _counts(report: Report) -> str:
    errors = "".join(f", {count} {kind}" for kind, count in report.errors.items())
    return f"{report.succeeded} of {report.sent} answered{errors}"


def _timed(actual: str, report: Report) -> str:
    return f"{actual} after {report.duration_s * 1e3:.1f} ms"


def _describe_end(ended: Finished) -> str:
    parts = [f"exit code {ended.code}"]
    for name, text in (("output", ended.out), ("errors", ended.err)):
        if text.strip():
            parts.append(f"{name}: {text.strip()[-EXCERPT:]!r}")
    return ", ".join(parts)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _or(value: Any) -> str:
    return " or ".join(str(each) for each in _list(value))


def _and(*parts: str) -> str:
    return " and ".join(parts)


Judge = Callable[[Any, str, Session], Awaitable[Verdict]]
