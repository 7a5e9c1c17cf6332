"""Statistics of the flows in a window: totals, and the top users, destinations and rules."""

from __future__ import annotations

from collections.abc import Mapping

from oxyctl.render.groups import print_groups, sums_texts
from oxyctl.render.tables import Column, Table
from oxyctl.render.units import count_text, time_text
from proxy.control.schema import GroupsAnswer, Sums

_HEADERS = ("FLOWS", "LIVE", "UP", "DOWN", "BYTES", "DURATION", "FIRST", "LAST")


def print_stats(answers: Mapping[str, GroupsAnswer], format_: str, *, is_running: bool) -> None:
    """Print one table per group, or one document with all; `answers`: by the field that groups them."""
    if format_ != "table":
        _print_document(answers, is_running)
        return
    window = next(iter(answers.values()))
    total = Sums()
    for group in answers["protocol"].items:
        total.add(group.sums)
    print(_window_text(window))
    if not total.flows:
        print("no flows match")
        return
    print()
    Table([Column(header, right=True) for header in _HEADERS]).write([sums_texts(total)])
    for by, answer in answers.items():
        groups = answer.items
        if by == "tenant" and len(groups) == 1:
            continue
        if [group.by[by] for group in groups] != [None]:
            print()
            print_groups(answer, (by,), "table", is_running=is_running)


def _window_text(answer: GroupsAnswer) -> str:
    since = "all records" if answer.window.since is None else f"since {time_text(answer.window.since, date=True)}"
    lost = f"{count_text(answer.lost, 'record')} lost" if answer.lost else "no records lost"
    return f"{since}, until {time_text(answer.window.until, date=True)}; {lost}"


def _print_document(answers: Mapping[str, GroupsAnswer], is_running: bool) -> None:
    from oxyctl.render.envelope import print_envelope

    first = next(iter(answers.values()))
    items = [{"by": by, "groups": answer.items} for by, answer in answers.items()]
    print_envelope("flow-stats", items, proxy_running=is_running, window=first.window, lost=first.lost)
