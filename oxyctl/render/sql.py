"""SQL over flows with DuckDB: for queries that no option covers, and without a server."""

from __future__ import annotations

import contextlib
import csv
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO, Any

import msgspec

from oxyctl.errors import OxyctlError, UsageError
from oxyctl.render.envelope import print_envelope
from oxyctl.render.tables import Column, Table
from proxy.control.schema import FlowRecord, RequestRecord, Totals

_NUMBERS = {"seq", "src_port", "dst_port", "dscp"}
_TIMES = {"start", "end"}
_ENCODED = {"decisions", "ssh", "tls"}
_ENCODER = msgspec.json.Encoder()


def _columns() -> dict[str, str]:
    """The table's columns: fields of the record, and its counters. `start` and `end` are timestamps."""
    columns = {}
    for name in FlowRecord.__struct_fields__:
        if name in ("total", "delta"):
            continue
        type_ = "BIGINT" if name in _NUMBERS else "TIMESTAMP" if name in _TIMES else "VARCHAR"
        type_ = "DOUBLE" if name.endswith("_ms") else "BOOLEAN" if name == "final" else type_
        columns[name] = "JSON" if name in _ENCODED else type_
    return columns | dict.fromkeys(Totals.__struct_fields__, "BIGINT")


def _request_columns() -> dict[str, str]:
    """The columns of the table `requests`."""
    columns = {"url": "VARCHAR"}
    for name in RequestRecord.__struct_fields__:
        is_number = name.endswith(("_bytes", "_messages")) or name in ("port", "status", "close_code")
        type_ = "BIGINT" if is_number else "TIMESTAMP" if name in _TIMES else "VARCHAR"
        type_ = "DOUBLE" if name.endswith("_ms") else "BOOLEAN" if name == "is_open" else type_
        columns[name] = "JSON" if name in _ENCODED else type_
    return columns


def run_sql(
    statement: str, records: Iterable[FlowRecord], format_: str, requests: Iterable[RequestRecord] | None = None
) -> None:
    """Load the tables `flows` and `requests`, and print the result of `statement`. UsageError: it is invalid."""
    with _database(records, "oxyctl flows sql", requests) as connection:
        result = connection.execute(statement)
        names = [each[0] for each in result.description or []]
        rows = result.fetchall()
    _print(names, rows, format_)


def write_parquet(records: Iterable[FlowRecord], out: IO[bytes]) -> None:
    """Write the table as one Parquet file."""
    with tempfile.TemporaryDirectory(prefix="oxyctl-flows-") as directory:
        path = f"{directory}/flows.parquet"
        with _database(records, "--format parquet") as connection:
            connection.execute(f"COPY flows TO '{path}' (FORMAT parquet)")
        with open(path, "rb") as file:
            shutil.copyfileobj(file, out)


@contextlib.contextmanager
def _database(
    records: Iterable[FlowRecord], what: str, requests: Iterable[RequestRecord] | None = None
) -> Iterator[Any]:
    """An in-memory database with the records loaded; its errors become UsageError."""
    try:
        import duckdb
    except ImportError:
        raise OxyctlError(f"`{what}` needs DuckDB: pip install 'oxyctl[analysis]'") from None

    connection = duckdb.connect(":memory:")
    try:
        _load(connection, "flows", _columns(), map(_row, records))
        if requests is not None:
            _load(connection, "requests", _request_columns(), map(_request_row, requests))
        yield connection
    except duckdb.Error as error:
        raise UsageError(f"sql: {error}") from None
    finally:
        connection.close()


def _load(connection: Any, table: str, columns: dict[str, str], rows: Iterable[dict[str, Any]]) -> None:
    with tempfile.NamedTemporaryFile("wb", prefix="oxyctl-flows-", suffix=".jsonl") as file:
        for row in rows:
            file.write(_ENCODER.encode(row) + b"\n")
        file.flush()
        types = ", ".join(f"'{name}': '{'BIGINT' if name in _TIMES else kind}'" for name, kind in columns.items())
        expressions = ", ".join(_column_expression(name) for name in columns)
        read = f"read_json(?, format='newline_delimited', columns={{{types}}})"
        connection.execute(f"CREATE TABLE {table} AS SELECT {expressions} FROM {read}", [file.name])


def _column_expression(name: str) -> str:
    return f'make_timestamp("{name}" // 1000) AS "{name}"' if name in _TIMES else f'"{name}"'


def _row(record: FlowRecord) -> dict[str, Any]:
    row: dict[str, Any] = msgspec.to_builtins(record)
    row |= row.pop("total")
    del row["delta"]
    return row


def _request_row(request: RequestRecord) -> dict[str, Any]:
    return {"url": request.url, **msgspec.structs.asdict(request)}


def _print(names: list[str], rows: list[tuple[Any, ...]], format_: str) -> None:
    if format_ == "table":
        right = [all(isinstance(row[at], int | float) for row in rows) and bool(rows) for at in range(len(names))]
        columns = [Column(name, right[at]) for at, name in enumerate(names)]
        Table(columns).write([["-" if value is None else str(value) for value in row] for row in rows])
        return
    items = [dict(zip(names, map(_plain, row), strict=True)) for row in rows]
    if format_ == "json":
        print_envelope("flows-sql", items)
    elif format_ == "jsonl":
        for item in items:
            print(json.dumps(item))
    else:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(rows)


def _plain(value: Any) -> Any:
    """A value as JSON holds it."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    return str(value)
