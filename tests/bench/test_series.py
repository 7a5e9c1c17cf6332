"""Medians, ratios within a round, targets, tables: what turns runs into a figure."""

from __future__ import annotations

import json

import pytest

from bench.series import Figure, Target, align, alternate, number


@pytest.fixture
def figure() -> Figure:
    figure = Figure("speed", "Speed", ("reference",))
    for reference, ours in ((100, 50), (10, 6), (1000, 400)):
        figure.add("reference", {"rate": reference})
        figure.add("ours", {"rate": ours, "extra": 1})
    return figure


def test_median_is_of_all_runs(figure: Figure) -> None:
    assert figure.median("reference", "rate") == 100
    assert figure.median("ours", "rate") == 50


def test_median_of_what_was_not_measured_is_zero(figure: Figure) -> None:
    assert figure.median("reference", "extra") == 0
    assert figure.median("nobody", "rate") == 0


def test_ratio_pairs_runs_of_one_round(figure: Figure) -> None:
    assert figure.ratio("ours", "reference", "rate") == 0.5  # of 0.5, 0.6 and 0.4; the medians would say 0.5 by chance
    figure.add("reference", {"rate": 1})
    figure.add("ours", {"rate": 1})
    assert figure.ratio("ours", "reference", "rate") == pytest.approx(0.55)


def test_ratios_leave_out_metrics_without_reference(figure: Figure) -> None:
    assert figure.ratios("ours") == {"rate": 0.5}
    assert figure.ratios("reference") == {}


def test_each_metric_has_the_first_reference_that_was_measured_by_it() -> None:
    figure = Figure("two", "Two", ("compiled", "kernel"))
    figure.add("compiled", {"loop": 10.0})
    figure.add("kernel", {"datagrams": 100.0})
    figure.add("ours", {"datagrams": 25.0})
    assert figure.ratios("ours") == {"datagrams": 0.25}


@pytest.mark.parametrize(
    ("value", "at_most", "is_met"), [(0.45, False, True), (0.44, False, False), (0.45, True, True), (0.46, True, False)]
)
def test_target(value: float, at_most: bool, is_met: bool) -> None:
    assert Target("of the kernel", value, 0.45, at_most).is_met is is_met


def test_text_shows_medians_ratios_targets_and_absences(figure: Figure) -> None:
    figure.aim("of the reference", 0.5, 0.6)
    figure.skipped["other"] = "not installed"
    lines = figure.text().splitlines()
    assert lines[0] == "Speed"
    assert lines[2].split() == ["rate", "extra"]
    assert lines[3].split() == ["reference", "100", "-"]
    assert lines[4].split() == ["ours", "50", "(0.50)", "1"]
    assert "  MISSED  of the reference: 0.5 (>= 0.6)" in lines
    assert "  skipped  other: not installed" in lines


def test_a_loss_voids_a_figure_and_a_slow_one_does_not(figure: Figure) -> None:
    figure.aim("of the reference", 0.5, 0.6)
    figure.aim_at_none("requests that failed", 0)
    assert not figure.has_failed
    figure.aim_at_none("connections that failed", 1)
    assert figure.has_failed
    assert "  MISSED  connections that failed: 1 (<= 0)" in figure.text().splitlines()


def test_contestants_that_share_no_metric_stand_in_tables_of_their_own() -> None:
    figure = Figure("two", "Two")
    figure.add("first", {"a": 1})
    figure.add("second", {"b": 2})
    assert figure.text().splitlines()[2:] == ["       a", "first  1", "", "        b", "second  2", ""]


def test_json_holds_every_run(figure: Figure) -> None:
    figure.aim("of the reference", 0.5, 0.6)
    found = json.loads(json.dumps(figure.as_json({"kernel": "6.1"})))
    assert found["runs"]["reference"] == [{"rate": 100}, {"rate": 10}, {"rate": 1000}]
    assert found["medians"]["ours"] == {"rate": 50, "extra": 1}
    assert found["ratios"]["ours"] == {"rate": 0.5}
    assert found["targets"][0]["is_met"] is False
    assert found["machine"] == {"kernel": "6.1"}


def test_alternate_takes_turns() -> None:
    order: list[str] = []

    def measure(name: str) -> dict[str, float]:
        order.append(name)
        return {"rate": len(order)}

    figure = Figure("turns", "Turns")
    alternate(figure, 2, [("a", lambda: measure("a")), ("b", lambda: measure("b"))])
    assert order == ["a", "b", "a", "b"]
    assert figure.runs == {"a": [{"rate": 1}, {"rate": 3}], "b": [{"rate": 2}, {"rate": 4}]}


def test_align_names_left_values_right() -> None:
    assert align([["", "rate"], ["kernel", "9"]]) == ["        rate", "kernel     9"]


@pytest.mark.parametrize(("value", "text"), [(0.456, "0.456"), (12.34, "12.3"), (123.4, "123"), (14529.2, "14,529")])
def test_number(value: float, text: str) -> None:
    assert number(value) == text
