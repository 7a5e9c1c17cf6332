"""Units as people write them, and impairments in words."""

from __future__ import annotations

import pytest

from oxyctl.net.impairment import Impairment, ImpairmentSettings, parse_delay, parse_loss, parse_rate, seed


@pytest.mark.parametrize(
    ("text", "bits"),
    [("10mbit", 10_000_000), ("1.5Mbit", 1_500_000), ("500 kbit", 500_000), ("2gbit", 2 * 10**9), ("1mibit", 2**20)],
)
def test_a_rate(text, bits):
    assert parse_rate(text) == bits


@pytest.mark.parametrize("text", ["10", "10mb", "mbit", "-1mbit", "0mbit", "", "1e3kbit", "10bit"])
def test_no_rate(text):
    with pytest.raises(ValueError, match="rate"):
        parse_rate(text)


@pytest.mark.parametrize(("text", "seconds"), [("20ms", 0.02), ("1.5s", 1.5), ("0", 0), ("250us", 0.00025)])
def test_a_delay(text, seconds):
    assert parse_delay(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["20", "20 minutes", "-5ms", "61s", "ms"])
def test_no_delay(text):
    with pytest.raises(ValueError, match="delay"):
        parse_delay(text)


@pytest.mark.parametrize(("value", "share"), [("1%", 0.01), (0.25, 0.25), ("0.5", 0.5), ("100%", 1), (0, 0), (1, 1)])
def test_a_loss(value, share):
    assert parse_loss(value) == pytest.approx(share)


@pytest.mark.parametrize("value", ["101%", -0.1, 2, "much", "%"])
def test_no_loss(value):
    with pytest.raises(ValueError, match="share"):
        parse_loss(value)


def test_what_is_not_said_stays_as_it_was():
    before = Impairment(rate_bits=1_000_000, delay_s=0.02, loss=0.01)
    assert ImpairmentSettings(delay="50ms").over(before) == Impairment(rate_bits=1_000_000, delay_s=0.05, loss=0.01)
    assert ImpairmentSettings(rate="unlimited", loss=0, down=True).over(before) == Impairment(delay_s=0.02, down=True)
    with pytest.raises(ValueError, match="jitter cannot be more"):
        ImpairmentSettings(jitter="30ms").over(before)


def test_words():
    everything = Impairment(rate_bits=10_000_000, delay_s=0.02, jitter_s=0.005, loss=0.01, down=True)
    assert everything.describe() == "rate 10mbit, delay 20ms, jitter 5ms, loss 1%, down"
    assert Impairment().describe() == ""


def test_a_link_has_the_same_chances_each_time():
    assert seed("web:lan") == seed("web:lan") != seed("web:wan")
