"""Flows on standard output: as a table, one JSON document, JSON lines, or CSV."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from oxyctl.errors import UsageError
from oxyctl.render import flows
from oxyctl.render.envelope import print_envelope
from oxyctl.render.tables import Table
from oxyctl.render.units import count_text, safe_text, time_text
from proxy.control.schema import FlowRecord, FlowsAnswer, Lost
from proxy.settings import suggest

_TODAY_NS = 86_400 * 10**9
_encode = msgspec.json.Encoder().encode


class FlowOutput:
    """Prints flows in one format, with the requested fields."""

    def __init__(self, kind: str, format_: str, fields: str | None, *, every_tenant: bool, events: bool) -> None:
        """UsageError: `fields` names an unknown field."""
        self._kind, self._format = kind, format_
        self._fields = _parse_fields(fields) if fields else ()
        self._table_fields = self._fields or flows.table_fields(every_tenant=every_tenant, events=events)

    def answer(
        self, records: Iterable[FlowRecord], answer: FlowsAnswer | None = None, *, is_running: bool = True, **more: Any
    ) -> None:
        """Print a whole answer; as JSON with its period, whether the proxy runs, and `more`."""
        if self._format not in ("table", "json"):  # one by one: there may be millions
            self._print_lines(records)
            return
        records = list(records)
        if self._format == "table":
            dates = bool(records) and max(r.start for r in records) - min(r.start for r in records) > _TODAY_NS
            rows = [flows.texts(record, self._table_fields, dates=dates) for record in records]
            Table(flows.columns(self._table_fields)).write(rows)
        else:
            self._print_document(records, answer, proxy_running=is_running, **more)

    def detail(self, record: FlowRecord) -> None:
        """Print one flow, a line for each field that is known."""
        names = self._fields or [*flows.CSV_FIELDS]
        known = [(name, value) for name in names if (value := flows.values(record, [name])[0]) not in (None, "")]
        width = max((len(name) for name, _ in known), default=0)
        for name, value in known:
            text = time_text(value, date=True) if name in ("start", "end") else safe_text(str(value))
            print(f"{name.ljust(width)}  {text}")

    def events(self, events: Iterable[FlowRecord | Lost]) -> None:
        """Print events as they arrive."""
        if self._format == "table":
            table = Table(flows.columns(self._table_fields))
            table.write([])
            for record in self._records(events):
                table.append(flows.texts(record, self._table_fields))
        elif self._format == "jsonl":
            for event in events:
                print(self._line(event), flush=True)
        else:
            self._print_lines(self._records(events), flush=True)

    def _records(self, events: Iterable[FlowRecord | Lost]) -> Iterator[FlowRecord]:
        """The records among the events; lost events are reported on standard error."""
        for event in events:
            if isinstance(event, Lost):
                print(
                    f"{count_text(event.lost, 'event')} skipped: the reader was too slow", file=sys.stderr, flush=True
                )
            else:
                yield event

    def _print_document(self, records: Sequence[FlowRecord], answer: FlowsAnswer | None, **more: Any) -> None:
        items: list[Any] = [self._selected(record) for record in records]
        if answer is not None:
            more |= {"window": answer.window, "lost": answer.lost, "truncated": answer.truncated}
        print_envelope(self._kind, items, **more)

    def _print_lines(self, records: Iterable[FlowRecord], *, flush: bool = False) -> None:
        """JSON lines, or CSV quoted as in RFC 4180. A cell beginning with `=` is unchanged; spreadsheets may run it."""
        if self._format == "jsonl":
            for record in records:
                print(self._line(record))
            return
        names = self._fields or flows.CSV_FIELDS
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(names)
        for record in records:
            writer.writerow(flows.values(record, names))
            if flush:
                sys.stdout.flush()

    def _line(self, event: FlowRecord | Lost) -> str:
        return _encode(event if isinstance(event, Lost) else self._selected(event)).decode()

    def _selected(self, record: FlowRecord) -> Any:
        return dict(zip(self._fields, flows.values(record, self._fields), strict=True)) if self._fields else record


def _parse_fields(text: str) -> tuple[str, ...]:
    names = tuple(name.strip().replace("-", "_") for name in text.split(","))
    for name in names:
        if name == "help":
            raise UsageError(f"--fields takes any of: {', '.join(sorted(flows.FIELDS))}")
        if name not in flows.FIELDS:
            raise UsageError(f"--fields: unknown field {name!r}{suggest(name, flows.FIELDS)}")
    return names
