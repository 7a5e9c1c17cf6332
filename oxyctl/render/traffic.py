"""Traffic reports as text: one row of figures, and remarks on their limits."""

from __future__ import annotations

from collections.abc import Iterator

from oxyctl.render.tables import Column, Table
from oxyctl.render.units import safe_text
from oxyctl.traffic.tally import Progress, Report

_BIT_UNITS = ("bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s")


def rate_text(bits_per_s: float) -> str:
    """A bit rate such as `940 Mbit/s`, in steps of 1000."""
    unit = 0
    while bits_per_s >= 999.5 and unit < len(_BIT_UNITS) - 1:
        bits_per_s, unit = bits_per_s / 1000, unit + 1
    return f"{bits_per_s:.{1 if unit and bits_per_s < 9.95 else 0}f} {_BIT_UNITS[unit]}"


def ms_text(ms: float | None) -> str:
    """Milliseconds with three digits: `0.42`, `12.3`, `1840`."""
    if ms is None:
        return "-"
    return f"{ms:.2f}" if ms < 9.995 else f"{ms:.1f}" if ms < 99.95 else f"{ms:.0f}"


def progress_text(progress: Progress) -> str:
    """One line about the last second."""
    is_bulk = not progress.succeeded and (progress.sent_bps or progress.received_bps)
    rates = [] if is_bulk else [f"{progress.succeeded} done", f"{progress.rate:.1f}/s"]
    if progress.failed:
        rates.append(f"{progress.failed} failed")
    rates += [
        f"{arrow} {rate_text(bps)}"
        for arrow, bps in (("up", progress.sent_bps), ("down", progress.received_bps))
        if bps
    ]
    return ", ".join(rates)


def print_report(report: Report) -> None:
    """Print a heading, the figures, and a line for each remark."""
    print(safe_text(_heading(report)))
    Table([Column(name, right=True) for name in _figures(report)]).write([list(_figures(report).values())])
    for remark in _remarks(report):
        print(safe_text(remark))


def _heading(report: Report) -> str:
    host = "" if report.address is None or report.address in report.target else f" ({report.address})"
    asked = f", {report.asked_rate:g}/s requested" if report.asked_rate else ""
    end = ", interrupted" if report.interrupted else ""
    return f"{report.kind} from {report.node or 'here'} to {report.target}{host}: {report.duration_s:.2f} s{asked}{end}"


def _figures(report: Report) -> dict[str, str]:
    figures = {"SENT": str(report.sent), "OK": str(report.succeeded), "FAILED": str(report.failed)}
    if report.loss is not None and report.reordered is not None:
        figures["LOSS"] = f"{report.loss:.1%}"
    figures |= {
        "RATE": f"{report.rate:.1f}/s",
        "UP": rate_text(report.sent_bps),
        "DOWN": rate_text(report.received_bps),
    }
    latency = report.latency_ms
    for name in ("min", "mean", "p50", "p90", "p99", "max"):
        figures[f"{name.upper()}{' ms' if name == 'min' else ''}"] = ms_text(getattr(latency, name, None))
    if report.jitter_ms is not None:
        figures["JITTER"] = ms_text(report.jitter_ms)
    return figures


def _remarks(report: Report) -> Iterator[str]:
    if report.errors:
        kinds = ", ".join(f"{kind} {count}" for kind, count in report.errors.items())
        yield f"failed: {kinds}; the last one: {report.explanation}"
    if report.statuses:
        yield "answers: " + ", ".join(f"{status} {count}" for status, count in report.statuses.items())
    if report.reordered or report.duplicates:
        yield f"{report.reordered} out of order, {report.duplicates} duplicated"
    if report.unsent:
        yield f"{report.unsent} were due but never sent: --concurrency is too low, or the target too slow"
    if report.unfinished:
        yield f"{report.unfinished} still unanswered at the end"
    if report.latency_from == "due" and report.latency_ms is not None:
        yield "latency is measured from when each was due, even if it was sent later"
