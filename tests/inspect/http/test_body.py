"""Bodies that a hook reads: part by part, held meanwhile, changed, and refused before or after they have begun."""

import h2.events
import pytest

from proxy.inspect.http.body import PART_BYTES, BodyEnd
from proxy.inspect.stream import Side
from proxy.verdict import Failure, HeaderChange, HttpAnswer, HttpEffects, Verdict
from tests.inspect.http.h2_peer import REQUEST
from tests.inspect.http.talk import Talk
from tests.inspect.http.test_h1 import GET, OK, post
from tests.inspect.http.test_h2 import H2Talk

UPLOAD = post(b"Content-Length: 6", body=b"abcdef")
BOTH = Verdict(http=HttpEffects(reads=("request", "response")))


def reading(http_body, **hooks):
    """A conversation in which `http_body` is shown both bodies."""
    return Talk(hooks={"http_request": lambda exchange: BOTH, "http_body": http_body, **hooks})


def parts(talk):
    return [argument.data for hook, argument, _ in talk.asked if hook == "http_body"]


def say(talk, answer):
    """Answer the oldest question about a body."""
    _, _, then = talk.asked.pop(0)
    then(answer)


def test_a_body_is_changed_as_it_passes():
    seen = []
    talk = reading(lambda part: seen.append((part.data, part.from_client, part.is_last)) or part.data.upper())
    heard, read = talk.exchange(UPLOAD, OK)
    assert heard.endswith(b"Transfer-Encoding: chunked\r\nVia: 1.1 oxy\r\n\r\n6\r\nABCDEF\r\n0\r\n\r\n")
    assert read.endswith(b"\r\n\r\n5\r\nHELLO\r\n0\r\n\r\n")
    assert seen == [(b"abcdef", True, False), (b"", True, True), (b"hello", False, False), (b"", False, True)]
    assert talk.told == []
    assert talk.records[0].fault is None


def test_a_request_that_is_denied_by_its_body_never_reaches_the_origin():
    talk = reading(lambda part: "a card number" if b"def" in part.data else b"")
    assert talk.say(UPLOAD) == b""
    read = talk.client.take()
    assert read.startswith(b"HTTP/1.1 403 ")
    assert b"a card number" in read
    record = talk.records[0]
    assert (record.verdict, record.status, record.fault) == ("denied", 403, "denied")
    assert [(each.stage, each.action, each.reason) for each in record.decisions] == [
        ("http_request", "allow", None),
        ("http_body", "deny", "a card number"),
    ]


def test_a_request_whose_later_part_is_denied_is_broken_off():
    talk = reading(lambda part: None if part.data == b"one" else "enough")
    heard = talk.say(post(b"Content-Length: 6", body=b"one"))
    assert heard.endswith(b"3\r\none\r\n")
    talk.say(b"two")
    assert talk.origin.is_aborted
    assert talk.client.take().startswith(b"HTTP/1.1 403 ")


def test_a_response_can_be_replaced_by_a_page_until_something_has_passed():
    talk = reading(lambda part: b"" if part.from_client or not part.is_last else "a secret")
    talk.say(GET)
    read = talk.answer(OK)
    assert read.startswith(b"HTTP/1.1 403 ")
    assert b"hello" not in read
    assert not talk.origin.is_aborted  # its response is complete, and the connection as good as before
    assert talk.exchange(GET, OK)[1].startswith(b"HTTP/1.1 403 ")


def test_a_response_that_has_begun_is_broken_off():
    talk = reading(lambda part: None if part.data == b"he" else "a secret")
    talk.say(GET)
    assert talk.answer(OK[:-3]).endswith(b"2\r\nhe\r\n")
    talk.answer(b"llo")
    assert talk.client.is_aborted
    assert talk.origin.is_aborted
    assert talk.records[0].verdict == "denied"


def test_parts_are_asked_about_one_at_a_time_while_the_sender_is_held():
    talk = reading("later")
    body = b"x" * (PART_BYTES + 10)
    assert talk.say(post(b"Content-Length: %d" % (len(body) + 1), body=body)) == b""
    assert parts(talk) == [body[:PART_BYTES]]
    assert talk.client.is_paused
    say(talk, b"first")
    assert talk.origin.take().endswith(b"5\r\nfirst\r\n")
    assert parts(talk) == [b"x" * 10]
    say(talk, None)
    assert not talk.client.is_paused
    assert talk.say(b"y") == b"a\r\n" + b"x" * 10 + b"\r\n"
    say(talk, None)
    say(talk, b"end")
    assert talk.origin.take() == b"1\r\ny\r\n3\r\nend\r\n0\r\n\r\n"


def test_a_client_that_waits_for_100_hears_it_from_the_proxy():
    talk = reading(lambda part: None)
    assert talk.say(post(b"Content-Length: 3", b"Expect: 100-continue")) == b""
    assert talk.client.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    heard = talk.say(b"abc")
    assert b"Expect" not in heard
    assert heard.endswith(b"3\r\nabc\r\n0\r\n\r\n")


def test_trailers_come_after_what_the_hook_has_kept():
    talk = reading(lambda part: part.data + b"!" if part.is_last else b"")
    chunked = post(b"Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n")
    assert talk.say(chunked).endswith(b"1\r\n!\r\n0\r\nX-Sum: 1\r\n\r\n")


def test_what_has_no_body_is_not_shown():
    talk = reading(lambda part: pytest.fail("there is none"))
    head = GET.replace(b"GET", b"HEAD")
    assert talk.exchange(head, OK[:-5])[1].endswith(b"Content-Length: 5\r\nVia: 1.1 oxy\r\n\r\n")


def test_a_client_that_goes_away_ends_the_reading():
    talk = reading("later")
    talk.say(UPLOAD)
    talk.handler.broken(Side.CLIENT, OSError("reset"))
    ((hook, over),) = talk.told
    assert (hook, type(over), over.number, over.from_client) == ("http_body", BodyEnd, 1, True)
    say(talk, None)
    assert talk.origin.take() == b""


def test_a_verdict_that_allows_lets_the_part_pass():
    talk = reading(lambda part: Verdict(reason="it fails open"))
    assert talk.say(UPLOAD).endswith(b"6\r\nabcdef\r\n0\r\n\r\n")


@pytest.mark.parametrize("hook", ["http_request", "http_body", "http_response"])
def test_a_hook_that_fails_is_a_502_and_no_denial(hook):
    failure = Failure(action="deny", reason="hook failed")
    talk = Talk(hooks={"http_request": lambda _: BOTH, "http_body": lambda _: None} | {hook: lambda _: failure})
    talk.say(UPLOAD)
    talk.answer(OK)
    record = talk.records[0]
    assert (record.status, record.verdict, record.fault, record.fault_by) == (502, "error", "hook_failed", "proxy")


def test_a_hook_answers_itself():
    given = HttpAnswer(status=202, headers=(HeaderChange("Content-Type", "application/json"),), body=b"{}")
    talk = Talk(hooks={"http_request": lambda exchange: Verdict(http=HttpEffects(answer=given))})
    assert talk.say(GET) == b""
    assert talk.client.take() == (
        b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    )
    assert talk.records[0].status == 202


def test_the_bare_status():
    denied = Verdict(action="deny", reason="no", http=HttpEffects(status=404, page=""))
    talk = Talk(hooks={"http_request": lambda exchange: denied})
    talk.say(GET)
    read = talk.client.take()
    assert read.startswith(b"HTTP/1.1 404 ")
    assert b"Content-Length: 0\r\n" in read
    assert b"Content-Type" not in read


def test_a_window_stays_shut_while_the_hook_is_asked():
    talk = H2Talk(hooks={"http_request": lambda exchange: BOTH, "http_body": "later"}, window_bytes=512 << 10)
    fields = [(b":method", b"POST"), *REQUEST[1:]]
    talk.client_says(talk.browser.headers(1, fields, end=False))
    for _ in range(24):
        talk.client_says(talk.browser.data(1, b"z" * 16_000))
    assert not talk.browser.of(h2.events.WindowUpdated, 1)
    while talk.asked:
        say(talk, b"")
    talk.settle()
    assert sum(event.delta for event in talk.browser.of(h2.events.WindowUpdated, 1)) > 100_000


def test_a_response_that_came_whole_leaves_its_connection_to_others():
    talk = Talk(hooks={"http_response": "later"})
    talk.say(GET)
    talk.answer(OK)
    talk.asked.pop()[2]("not this one")
    assert not talk.origin.is_aborted
    assert talk.client.take().startswith(b"HTTP/1.1 403 ")
