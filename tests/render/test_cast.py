"""Recordings read, played and made pages: both versions, damaged ones, what would break out of the page."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxyctl.errors import OxyctlError, UsageError
from oxyctl.render.cast import RESET, Cast, Moment, decrypted, play, read_cast, shortened
from oxyctl.render.player import asciicast, page
from proxy.wire import age

IDENTITY = "AGE-SECRET-KEY-1NYAJLMJK7QYGMP5WSTX6PENDH4C7EEP8Y8YDWXLU5FYYG5WR504Q73HXJ7"
KEY = "age1n3crr3fpyct29gv36ve5vqupfkj4tk7glctv2sqtk8f8qhwq5u7s089wts"
V2 = b'{"version": 2, "width": 80, "height": 24, "timestamp": 5}\n[1.5, "o", "a"]\n[4.0, "i", "b"]\n'
V3 = b'{"version": 3, "term": {"cols": 80, "rows": 24}, "timestamp": 5}\n# remark\n[1.5, "o", "a"]\n[2.5, "i", "b"]\n'
MOMENTS = [Moment(1.5, "o", "a"), Moment(4.0, "i", "b")]


@pytest.mark.parametrize("data", [V2, V3])
def test_both_versions_say_the_same(data):
    assert read_cast(data) == Cast(80, 24, 5, MOMENTS)


def test_a_last_line_that_is_not_whole_is_left_out():
    assert read_cast(V2 + b'[5.0, "o", "ne') == Cast(80, 24, 5, MOMENTS, is_cut=True)


@pytest.mark.parametrize(
    "data",
    [b"", b"{}\n", b"[]\n", b"noise", b'{"version": 1}\n', b'{"version": 2, "width": "x"}\n',
     b'{"version": 3, "term": 5}\n', V2 + b"[1]\n", V2 + b'[true, "o", "x"]\n', V2 + b'[-1, "o", "x"]\n'],
)  # fmt: skip
def test_what_is_no_recording_is_refused(data):
    with pytest.raises(OxyctlError):
        read_cast(data)


@given(st.binary(max_size=200))
def test_noise_never_is_a_traceback(noise):
    with pytest.raises(OxyctlError):
        read_cast(noise)


def test_pauses_are_cut_and_divided():
    slept, shown = [], []
    play([*MOMENTS, Moment(14.0, "m", "full")], shown.append, slept.append, speed=2, idle_limit_s=3)
    assert slept == [0.75, 1.25, 1.5]
    assert shown == ["a", "\r\n[full]\r\n", RESET]
    assert [moment.seconds for moment in shortened(MOMENTS, 1.0)] == [1.0, 2.0]


def test_what_is_encrypted_needs_its_identity():
    encryptor = age.Encryptor([age.recipient(KEY)], bytes(age.randomness_for(1)))
    data = encryptor.header + encryptor.update(V2) + encryptor.finish()
    assert decrypted(data, f"# mine\n{IDENTITY}\n") == (V2, None)
    assert decrypted(V2, None) == (V2, None)
    with pytest.raises(UsageError, match="--identity"):
        decrypted(data, None)
    with pytest.raises(UsageError, match="expected AGE-SECRET-KEY"):
        decrypted(data, KEY)


def test_a_page_holds_the_recording_and_asks_the_network_for_nothing():
    evil = "</script><script>alert(1)</script>\u2028<!--"
    text = page(read_cast(V2)._replace(moments=[Moment(0.0, "o", evil)]), "<b>title</b>")
    held = re.search(r'<script type="application/json" id="cast">(.*?)</script>', text, re.S)[1]
    assert json.loads(json.loads(held).splitlines()[1])[2] == evil
    assert text.count("</script>") == 3
    assert "<b>title" not in text
    assert "default-src &#x27;none&#x27;" in text
    assert not re.search(r"<(script|link|img|iframe)[^>]* (src|href)=", text)


def test_an_export_is_read_again():
    assert read_cast(asciicast(read_cast(V3)).encode()).moments == MOMENTS
