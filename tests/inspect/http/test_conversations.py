"""Conversations by chance, in all pairings of versions: what was sent arrives to its end, and nothing waits for ever.

Piece by piece, in any order, with windows of any size, past ends that stop reading for a while.
`HYPOTHESIS_PROFILE=long` tries more of them.
"""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.verdict import HttpEffects, Verdict
from tests.inspect.http.ends import Browser1, Origin1, Plan
from tests.inspect.http.ends_h2 import Browser2, End2, Origin2
from tests.inspect.http.network import Net
from tests.inspect.http.talk import tls

BOTH = Verdict(http=HttpEffects(reads=("request", "response")))
SIZES = st.one_of(st.integers(0, 100), st.integers(0, 5_000), st.sampled_from([65_535, 65_536, 65_537, 131_072]),
                  st.integers(0, 300_000))  # fmt: skip
WINDOWS = st.sampled_from([0, 1, 1_000, 65_535, 100_000, 1 << 20])
PAIRS = [(client, origin) for client in ("http/1.1", "h2") for origin in ("http/1.1", "h2")]
HOOKS = st.sampled_from(
    [(), (), (), ("http_request",), ("http_response",), ("http_request", "http_response", "http_body")]
)
few = settings(max_examples=settings.default.max_examples // 4)
pairs = pytest.mark.parametrize(("client", "origin"), PAIRS, ids=lambda version: version.replace("http/1.1", "h1"))


@st.composite
def plans(draw, most=6):
    """Some requests and their answers."""
    made = []
    for number in range(draw(st.integers(1, most))):
        made.append(
            Plan(
                number,
                method=draw(st.sampled_from(["GET", "GET", "POST", "PUT", "HEAD"])),
                status=draw(st.sampled_from([200, 200, 200, 404, 204, 304])),
                upload=draw(SIZES),
                download=draw(SIZES),
                is_counted=draw(st.tuples(st.booleans(), st.booleans())),
                informs=draw(st.sampled_from([0, 0, 1, 3])),
                is_early=draw(st.sampled_from([False, False, True])),
                padding=draw(st.sampled_from([0, 0, 0, 1, 200])),
                trailers=draw(st.tuples(st.booleans(), st.booleans())),
            )
        )
    return made


def net_of(client, origin, requests, seed, *, windows=(65_535, 65_535), hooks=(), streams=100):
    """A net in which `requests` are made; beside it what origins have heard of each."""
    chance, uploads = random.Random(seed + 1), {}

    def client_end(wire):
        if client == "h2":
            return Browser2(wire, chance, requests, window=windows[0])
        return Browser1(wire, chance, requests)

    def origin_end(wire):
        if origin == "h2":
            return Origin2(wire, chance, requests, uploads, window=windows[1], streams=streams)
        return Origin1(wire, chance, requests, uploads)

    answers = dict.fromkeys(hooks, "later")
    net = Net(seed, tls(client), tls(origin), client_end, origin_end, hooks=answers)
    if "http_body" in hooks:
        net.verdicts["http_request"] = BOTH
    return net, uploads


def happen(net, count):
    """So many things, while ends take something or do not."""
    chance = net.chance
    for _ in range(count):
        if chance.random() < 0.1:
            wire = chance.choice(net.wires)
            wire.takes = not wire.takes
        if not net.some():
            break


def drain(net):
    net.handler.drain()


def reset_client(net):
    net.browser.is_over = net.browser.is_rude = True
    net.client.reset()


def close_client(net):
    """Both halves, whatever is still to come."""
    net.browser.is_rude = net.client.far_has_ended = True


def reset_origin(net):
    origin = net.chance.choice(net.origins)
    origin.is_over = True
    origin.wire.reset()


def close_origin(net):
    net.chance.choice(net.origins).wire.far_has_ended = True


def reset_stream(net):
    """Of either end."""
    ends = [end for end in (net.browser, *net.origins) if isinstance(end, End2) and not end.is_over and end.streams]
    if ends:
        net.chance.choice(ends).reset_any()


def go_away(net):
    """An origin, or the client, takes no more streams."""
    ends = [end for end in (net.browser, *net.origins) if isinstance(end, End2) and not end.is_over]
    if ends:
        net.chance.choice(ends).go_away()


def close_behind(net):
    """An origin closes behind its answers."""
    for plan in net.browser.plans:
        plan.is_last = net.chance.random() < 0.5


def fail_dials(net):
    net.dial_fails = 0.5


FAULTS = [
    drain,
    reset_client,
    close_client,
    reset_origin,
    close_origin,
    reset_stream,
    go_away,
    close_behind,
    fail_dials,
]


@pairs
@few
@given(plans(), st.tuples(WINDOWS, WINDOWS), HOOKS, st.sampled_from([1, 2, 100]), st.integers(0, 1 << 32))
def test_all_arrives(client, origin, requests, windows, hooks, streams, seed):
    net, uploads = net_of(client, origin, requests, seed, windows=windows, hooks=hooks, streams=streams)
    happen(net, net.chance.choice([0, 10, 100, 1_000]))
    net.calm()
    assert (net.finished is not None) == net.browser.half_closes
    assert net.handler._active == 0
    by_number = {int(record.path[1:]): record for record in net.records}
    assert len(net.records) == len(by_number) == len(requests)
    for plan in requests:
        heard, upload, record = net.browser.heard_of[plan.number], uploads[plan.number], by_number[plan.number]
        is_spared = plan.is_early and net.finished is not None  # an origin that has answered needs no more
        assert (heard.has_ended, upload.has_ended or is_spared, heard.was_reset) == (True, True, False), plan
        assert (heard.status, heard.informed) == (plan.status, plan.informs), plan
        assert bytes(heard.body) == plan.download, plan
        assert heard.sum == plan.sums[1], plan
        assert is_spared or (bytes(upload.body), upload.sum) == (plan.upload, plan.sums[0]), plan
        sizes = len(plan.upload), len(plan.download)
        assert (record.fault, record.status) == (None, plan.status)
        assert (record.request_body_bytes, record.response_body_bytes) == sizes
    net.handler.drain()
    net.calm()
    assert net.finished is not None


@pairs
@few
@given(
    plans(), st.tuples(WINDOWS, WINDOWS), HOOKS, st.sampled_from([1, 2, 100]),
    st.lists(st.sampled_from(FAULTS), min_size=1, max_size=4), st.integers(0, 1 << 32),
)  # fmt: skip
def test_what_breaks_off_is_told_and_all_else_arrives(client, origin, requests, windows, hooks, streams, faults, seed):
    net, uploads = net_of(client, origin, requests, seed, windows=windows, hooks=hooks, streams=streams)
    for fault in faults:
        happen(net, net.chance.choice([0, 10, 30, 100, 1_000]))
        if net.finished is None:
            fault(net)
            net.handler.settle()
    net.calm()
    assert net.handler._active == 0
    by_number = {int(record.path[1:]): record for record in net.records}
    assert len(net.records) == len(by_number) == net.handler._number
    for number, heard in net.browser.heard_of.items():
        plan, record, upload = requests[number], by_number.get(number), uploads.get(number)
        assert heard.has_ended or heard.was_reset or heard.was_given_up or net.browser.is_over, plan
        assert heard.is_page or plan.download.startswith(heard.body), plan
        assert not heard.has_ended or heard.is_page or bytes(heard.body) == plan.download, plan
        assert not heard.has_ended or record is not None, plan
        assert upload is None or plan.upload.startswith(upload.body), plan
        assert upload is None or not upload.has_ended or bytes(upload.body) == plan.upload, plan
        if record is not None and record.fault is None and not net.browser.is_rude and not heard.was_given_up:
            assert heard.has_ended, plan
            assert plan.is_early or upload.has_ended, plan
    net.wait(5_000)
    assert net.finished is not None
