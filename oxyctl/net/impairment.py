"""Impairments of a link: rate, delay, jitter, loss; parsed from text, and formatted."""

from __future__ import annotations

import hashlib
import re
from typing import Annotated

import msgspec
from msgspec import Meta

RATE_UNITS = {"bit": 1, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9, "kibit": 2**10, "mibit": 2**20, "gibit": 2**30}
TIME_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
MIN_RATE_BITS, MAX_DELAY_S = 1000, 60.0
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]+)")

Mtu = Annotated[int, Meta(ge=68, le=65_535)]  # RFC 791: every link carries 68 bytes
Loss = float | str  # 0 to 1, or 0% to 100%


class Impairment(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """An impairment of frames in either direction, for the kernel's links and the agents' tunnels alike."""

    rate_bits: int | None = None  # per second
    delay_s: float = 0.0
    jitter_s: float = 0.0  # delay ± jitter, uniformly distributed
    loss: float = 0.0
    down: bool = False

    @property
    def is_shaped(self) -> bool:
        """Whether passing frames must be held or dropped."""
        return self.rate_bits is not None or self.is_delayed

    @property
    def is_delayed(self) -> bool:
        """Whether there is any impairment except a rate."""
        return bool(self.delay_s or self.jitter_s or self.loss)

    def describe(self) -> str:
        """`rate 10mbit, delay 20ms, jitter 5ms, loss 1%, down`; empty without impairment."""
        parts = [f"rate {_scaled(self.rate_bits)}"] if self.rate_bits is not None else []
        parts += [f"delay {self.delay_s * 1000:g}ms"] if self.delay_s else []
        parts += [f"jitter {self.jitter_s * 1000:g}ms"] if self.jitter_s else []
        parts += [f"loss {self.loss * 100:g}%"] if self.loss else []
        return ", ".join([*parts, "down"] if self.down else parts)


class ImpairmentSettings(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """An impairment as users write it; None leaves a value unchanged."""

    rate: str | None = None
    delay: str | None = None
    jitter: str | None = None
    loss: Loss | None = None
    down: bool | None = None

    def over(self, before: Impairment) -> Impairment:
        """`before` with the values that are set here. ValueError: one is invalid."""
        parsed = {name: parse(value) for name, parse in PARSERS.items() if (value := getattr(self, name)) is not None}
        changes = {FIELDS[name]: value for name, value in parsed.items()}
        if self.down is not None:
            changes["down"] = self.down
        result: Impairment = msgspec.structs.replace(before, **changes)
        if result.jitter_s > result.delay_s:
            raise ValueError("jitter cannot be more than the delay")
        return result


def parse_rate(text: str) -> int | None:
    """The bits per second in `10mbit`; None for `unlimited`. ValueError: invalid, or below 1kbit."""
    if text == "unlimited":
        return None
    number = _parse(text, RATE_UNITS, "a rate such as 10mbit or 500kbit")
    if number < MIN_RATE_BITS:
        raise ValueError(f"a rate must be at least 1kbit (found {text!r})")
    return int(number)


def parse_delay(text: str) -> float:
    """The seconds in `20ms`; `0` needs no unit. ValueError: invalid, or too long."""
    seconds = 0.0 if text == "0" else _parse(text, TIME_UNITS, "a delay such as 20ms or 1.5s")
    if seconds > MAX_DELAY_S:
        raise ValueError(f"a delay must be at most {MAX_DELAY_S:g}s (found {text!r})")
    return seconds


def parse_loss(value: Loss) -> float:
    """The fraction, 0 to 1, in `1%` or 0.01. ValueError: not a share."""
    try:
        if isinstance(value, str):
            value = float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise ValueError("expected a share such as 1% or 0.01, from 0 to 1")
    return value


PARSERS = {"rate": parse_rate, "delay": parse_delay, "jitter": parse_delay, "loss": parse_loss}
FIELDS = {"rate": "rate_bits", "delay": "delay_s", "jitter": "jitter_s", "loss": "loss"}


def seed(name: str) -> int:
    """The seed for random losses on the link `name`, always the same."""
    return int.from_bytes(hashlib.blake2s(name.encode(), digest_size=4).digest())


def _parse(text: str, units: dict[str, float], expected: str) -> float:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or match[2].lower() not in units:
        raise ValueError(f"expected {expected} (found {text!r})")
    return float(match[1]) * units[match[2].lower()]


def _scaled(bits: int) -> str:
    for unit, size in (("gbit", 10**9), ("mbit", 10**6), ("kbit", 10**3)):
        if bits >= size:
            return f"{bits / size:g}{unit}"
    return f"{bits}bit"
