"""What random conversations have found: nothing stays paused, unread, unsent or unbounded behind an exchange."""

import h2.events as events
import pytest

from proxy.inspect.http.h2_wire import STREAM_HIGH_WATER
from proxy.inspect.http.limits import HIGH_WATER
from proxy.inspect.stream import Side
from proxy.verdict import HttpEffects, Verdict
from tests.inspect.http.h2_peer import REQUEST
from tests.inspect.http.talk import Talk
from tests.inspect.http.test_h1 import GET, OK, post
from tests.inspect.http.test_h2 import H2Talk
from tests.inspect.http.test_websocket import ASK

POST = [(b":method", b"POST"), *REQUEST[1:]]


def answer(talk):
    """Let the oldest question pass."""
    talk.asked.pop(0)[2](None)


def test_a_connection_to_an_origin_is_read_on_after_a_response_that_a_hook_has_held():
    talk = Talk(hooks={"http_response": "later"})
    for _ in range(2):
        talk.exchange(GET, OK)
        answer(talk)
        assert talk.client.take().endswith(b"hello")
        assert not talk.origin.is_paused


def test_a_connection_to_an_origin_is_read_on_after_a_response_that_its_client_has_not_taken():
    talk = H2Talk(origin_h2=False, window=0)
    talk.client_says(talk.browser.headers(1, REQUEST))
    talk.origin_says(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000)
    assert not talk.origin.is_paused
    talk.client_says(talk.browser.headers(3, REQUEST))
    assert talk.dials == []
    talk.origin_says(OK)
    assert talk.browser.of(events.ResponseReceived, 3)


def test_pipelined_requests_need_one_connection():
    talk = Talk()
    talk.say(GET * 3)
    for _ in range(3):
        assert talk.answer(OK).endswith(b"hello")
    assert talk.dials == []


READS = {"http_request": lambda exchange: Verdict(http=HttpEffects(reads=("request",))), "http_body": "later"}


def test_an_upload_that_outlives_its_response_passes_the_hook_to_its_end():
    talk = Talk(hooks=READS)
    talk.say(post(b"Content-Length: 6", body=b"abc"))
    answer(talk)
    assert talk.origin.take().endswith(b"3\r\nabc\r\n")
    talk.answer(OK)
    talk.say(b"def")
    assert talk.records == []
    answer(talk)
    answer(talk)
    assert talk.origin.take() == b"3\r\ndef\r\n0\r\n\r\n"
    (record,) = talk.records
    assert (record.fault, record.request_body_bytes) == (None, 6)


def test_an_upload_that_outlives_its_response_passes_the_hook_to_its_end_over_h2():
    talk = H2Talk(hooks=READS)
    talk.client_says(talk.browser.headers(1, POST, end=False))
    talk.client_says(talk.browser.data(1, b"abc"))
    answer(talk)
    talk.settle()
    talk.client_says(talk.browser.data(1, b"def", end=True))
    talk.origin_says(talk.server.headers(1, [(b":status", b"200")]))
    while talk.asked:
        answer(talk)
    talk.settle()
    assert talk.server.body(1) == b"abcdef"
    assert talk.server.of(events.StreamEnded)
    assert not talk.handler._main.streams


def test_requests_before_a_client_s_end_are_answered():
    talk = Talk()
    talk.say(GET * 2)
    talk.handler.ended(Side.CLIENT)
    assert talk.answer(OK).endswith(b"hello")
    assert talk.finished is None
    assert talk.answer(OK).endswith(b"hello")
    assert talk.finished == ("client_closed", "client")
    assert len(talk.records) == 2


@pytest.mark.parametrize(
    ("rest", "fault"),
    [
        (GET[:-2], "headers_cut"),
        (post(b"Content-Length: 6", body=b"abc"), "body_cut"),
        (post(b"Transfer-Encoding: chunked", body=b"3\r\nab"), "body_cut"),
    ],
)
def test_half_a_request_before_a_client_s_end(rest, fault):
    talk = Talk()
    talk.say(GET + rest)
    talk.handler.ended(Side.CLIENT)
    talk.answer(OK)
    assert talk.records[1].fault == fault
    assert talk.finished is not None


def test_a_whole_request_before_the_end_of_a_client_that_does_not_read():
    talk = Talk()
    talk.client.takes = False
    talk.say(GET)
    talk.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000)
    talk.say(GET)
    talk.handler.ended(Side.CLIENT)
    assert len(talk.records) == 1
    talk.client.takes = True
    talk.drained(Side.CLIENT)
    assert talk.answer(OK).endswith(b"hello")
    assert talk.records[1].fault is None


def test_an_interim_response_after_a_reset_harms_no_other_stream():
    talk = H2Talk()
    talk.client_says(talk.browser.headers(1, REQUEST))
    talk.client_says(talk.browser.headers(3, REQUEST))
    late = talk.server.headers(1, [(b":status", b"103"), (b"link", b"</of-its-table>")], end=False)
    talk.browser.h2.reset_stream(1, 8)
    talk.client_says(talk.browser.out())
    talk.origin_says(late)
    talk.origin_says(talk.server.headers(3, [(b":status", b"200"), (b"link", b"</of-its-table>")]))
    answered = dict(talk.browser.of(events.ResponseReceived, 3)[0].headers)
    assert answered[b"link"] == b"</of-its-table>"
    assert not talk.origin.is_ended


def test_a_connection_that_its_origin_has_closed_takes_no_other_request():
    talk = H2Talk(origin_h2=False)
    talk.client_says(talk.browser.headers(1, POST, end=False))
    talk.origin_says(OK)
    talk.handler.ended(Side.ORIGIN)
    talk.client_says(talk.browser.data(1, b"abc", end=True))
    talk.origin.take()
    talk.client_says(talk.browser.headers(3, REQUEST))
    assert talk.origin.take() == b""
    assert len(talk.dials) == 1


def test_an_upload_that_nobody_wants_is_not_kept():
    talk = H2Talk(origin_h2=False, window=0)
    talk.client_says(talk.browser.headers(1, POST, end=False))
    talk.origin_says(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    for _ in range(200):
        talk.client_says(talk.browser.data(1, b"x" * 16_000))
    (exchange,) = talk.handler._exchanges.values()
    assert exchange.is_complete
    assert sum(map(len, exchange._early._parts)) == 0


def test_a_response_waits_for_a_hook_though_its_client_has_read_others():
    talk = H2Talk(hooks={"http_response": "later"})
    talk.client_says(talk.browser.headers(1, REQUEST))
    talk.origin_says(talk.server.headers(1, [(b":status", b"200")], end=False))
    talk.handler.drained(Side.CLIENT)
    sent = 0
    while (room := min(talk.server.h2.local_flow_control_window(1), 16_384)) and sent < 4 << 20:
        talk.origin_says(talk.server.data(1, b"x" * room))
        sent += room
    assert sent <= 600_000


def test_the_next_upload_to_an_origin_that_does_not_read_waits_as_well():
    talk = H2Talk(origin_h2=False)
    talk.origin.takes = False
    talk.client_says(talk.browser.headers(1, POST, end=False))
    sent = upload(talk, 1)
    talk.origin_says(OK)
    talk.client_says(talk.browser.data(1, b"", end=True))
    talk.client_says(talk.browser.headers(3, POST, end=False))
    assert talk.dials == []
    assert sent + upload(talk, 3) < 2 * (HIGH_WATER + STREAM_HIGH_WATER) + (1 << 20)


def upload(talk, number):
    """How much the proxy takes of an upload."""
    sent = 0
    while sent < 4 << 20 and (room := min(talk.browser.h2.local_flow_control_window(number), 16_384)):
        talk.client_says(talk.browser.data(number, b"x" * room))
        sent += room
    return sent


UPLOADED = b"".join(b"%d" % number * 16_000 for number in range(9))


def upload_more_than_a_window(talk):
    """A complete request, whose end waits for the origin's window."""
    talk.client_says(talk.browser.headers(1, POST, end=False))
    for start in range(0, len(UPLOADED), 16_000):
        end = start + 16_000
        talk.client_says(talk.browser.data(1, UPLOADED[start:end], end=end == len(UPLOADED)))


def read_all(talk):
    """The origin reads what has come, and then the rest, for which it opens its window."""
    for _ in range(2):
        talk.server.read()
        talk.origin_says(talk.server.out())


def leave(talk, how):
    """The client ends its connection."""
    if how == "ends":
        talk.handler.ended(Side.CLIENT)
    else:
        talk.handler.broken(Side.CLIENT, ConnectionResetError(104, "reset"))
    talk.settle()


@pytest.mark.parametrize("how", ["ends", "resets"])
def test_an_upload_that_is_complete_reaches_its_origin_though_its_client_leaves(how):
    talk = H2Talk()
    upload_more_than_a_window(talk)
    assert len(talk.server.body(1)) == 65_535
    leave(talk, how)
    assert talk.finished is None
    read_all(talk)
    assert talk.server.body(1) == UPLOADED
    assert talk.server.of(events.StreamEnded)
    (record,) = talk.records
    assert (record.fault, record.fault_by, record.request_body_bytes) == ("client_gone", "client", 144_000)
    assert talk.finished is not None


def test_a_client_that_leaves_behind_an_upload_that_the_origin_does_not_read_ends_as_well():
    talk = H2Talk()
    upload_more_than_a_window(talk)
    leave(talk, "ends")
    leave(talk, "resets")
    talk.wait(200)
    talk.settle()
    assert talk.server.of(events.StreamReset)
    assert [record.fault for record in talk.records] == ["client_gone"]
    assert talk.finished is not None


def test_an_answer_to_a_client_that_has_left_goes_nowhere():
    talk = H2Talk()
    upload_more_than_a_window(talk)
    leave(talk, "ends")
    talk.client.take()
    talk.origin_says(talk.server.headers(1, [(b":status", b"103")], end=False))
    talk.origin_says(talk.server.headers(1, [(b":status", b"200")], end=False))
    talk.origin_says(talk.server.data(1, b"thanks", end=True))
    assert not talk.browser.of(events.ResponseReceived)
    assert talk.client.take() == b""
    read_all(talk)
    assert talk.server.body(1) == UPLOADED
    assert [record.fault for record in talk.records] == ["client_gone"]


@pytest.mark.parametrize("how", ["ends", "resets"])
def test_a_stream_of_which_half_was_uploaded_is_cancelled_as_its_client_leaves(how):
    talk = H2Talk()
    talk.client_says(talk.browser.headers(1, POST, end=False))
    for _ in range(9):
        talk.client_says(talk.browser.data(1, b"x" * 16_000))
    leave(talk, how)
    assert talk.server.of(events.StreamReset)
    assert talk.finished is not None


def test_a_request_to_upgrade_is_cancelled_as_its_client_leaves():
    talk = H2Talk(client_h2=False, connect_protocol=True)
    talk.client_says(ASK + b"\r\n")
    assert talk.handler._active == 1
    leave(talk, "resets")
    assert talk.handler._active == 0
    assert talk.server.of(events.StreamReset)
    assert talk.finished == ("client_reset", "client")


@pytest.mark.parametrize("client_h2", [True, False])
def test_an_upload_that_is_complete_is_not_reset_on_its_way_to_an_origin_of_1_1(client_h2):
    talk = H2Talk(origin_h2=False, client_h2=client_h2)
    talk.origin.takes = False
    if client_h2:
        talk.client_says(talk.browser.headers(1, POST, end=False))
        talk.client_says(talk.browser.data(1, b"x" * 16_000, end=True))
    else:
        talk.say(post(b"Content-Length: 16000", body=b"x" * 16_000))
    leave(talk, "resets")
    assert (talk.origin.is_ended, talk.origin.is_aborted) == (True, False)
    assert talk.finished == ("client_reset", "client")
    assert [record.fault for record in talk.records] == ["client_gone"]
