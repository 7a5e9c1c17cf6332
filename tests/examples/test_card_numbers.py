"""The example that reads bodies: card numbers are found wherever they are cut, and other numbers left alone."""

from __future__ import annotations

import asyncio
import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.card_numbers import CardNumbers, is_card
from proxy.flow.context import FlowContext
from proxy.hooks import HttpBodyPart, HttpRequest, HttpResponse, Verdict, load_hooks
from tests.records import make_record

FLOW = FlowContext(**msgspec.structs.asdict(make_record()))
REQUEST = HttpRequest(flow=FLOW, version="1.1", method="POST", scheme="https", host="a", path="/")
CARD = b"4111 1111 1111 1111"
TEXT = b"pay with " + CARD + b" or 4111-1111-1111-1112, order 12345"


def passed(parts, *, is_upload):
    """What goes on of a body that comes in these parts, or why it does not."""
    response = None if is_upload else HttpResponse(request=REQUEST, status=200)
    part = HttpBodyPart(request=REQUEST, response=response, data=b"", is_last=False)
    out = b""
    for number, data in enumerate(parts, 1):
        part.data, part.is_last = data, number == len(parts)
        answer = asyncio.run(CardNumbers().http_body(part))
        if isinstance(answer, Verdict):
            return answer.reason
        out += answer
    return out


@given(st.lists(st.integers(0, len(TEXT)), max_size=3).map(sorted))
def test_a_card_number_is_found_wherever_the_body_is_cut(cuts):
    edges = [0, *cuts, len(TEXT)]
    parts = [TEXT[start:end] for start, end in itertools.pairwise(edges)]
    assert passed(parts, is_upload=True) == "the upload holds a card number"
    assert passed(parts, is_upload=False) == TEXT.replace(CARD, b"*" * 15 + b"1111")


@pytest.mark.parametrize("text", [b"", b"4111111111111112", b"1" * 40, b"tel. 030 1234567"])
def test_other_numbers_pass(text):
    assert passed([text], is_upload=True) == text


def test_luhn():
    assert is_card(b"5500-0000-0000-0004")
    assert not is_card(b"5500-0000-0000-0005")


def test_what_is_compressed_is_refused_or_not_asked_for():
    compressed = msgspec.structs.replace(REQUEST, headers=[("content-encoding", "gzip")])
    assert asyncio.run(CardNumbers().http_request(compressed)).reason == "uploads must not be compressed (gzip)"
    effects = asyncio.run(CardNumbers().http_request(REQUEST)).http
    assert effects.reads == ("request", "response")
    assert [(each.name, each.value) for each in effects.request_headers] == [("Accept-Encoding", "identity")]


def test_it_is_loaded_by_the_name_in_its_first_line():
    load_hooks("examples.card_numbers:CardNumbers")
