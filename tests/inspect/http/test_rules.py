"""What policies and hooks do to requests and responses."""

import pytest

from proxy.inspect.http.messages import RequestHead, ResponseHead
from proxy.inspect.http.rules import Facts, apply_changes
from proxy.inspect.stream import Side
from proxy.verdict import Decision, HeaderChange, HttpEffects, Ruling, Verdict, deny
from tests.inspect.http.talk import Talk, tls
from tests.inspect.http.test_h1 import GET, OK, post

RULE = Decision(stage="http", policy="acme.yaml", rule="r1", action="block", version="7")


def ruled(verdict):
    return lambda facts: Ruling(verdict, [RULE])


def test_the_facts_of_a_request_have_gateways_names():
    head = RequestHead(b"POST", b"https", b"Wiki.Lab:8443", b"/a/b?c=d", "1.1")
    head.headers = [(b"X-A", b"1"), (b"Content-Type", b"Text/Plain; charset=x"), (b"x-a", b"2")]
    head.length = 7
    facts = Facts(head, None, tls("h2", "front.lab"))
    assert facts["http.request.host"] == "wiki.lab"
    assert facts["http.request.domains"] == ("wiki.lab", "lab")
    assert facts["http.request.uri"] == "/a/b?c=d"
    assert facts["http.request.uri.path"] == "/a/b"
    assert facts["http.request.uri.query"] == "c=d"
    assert facts["http.request.method"] == "POST"
    assert facts["http.request.headers"] == {"x-a": ("1", "2"), "content-type": ("Text/Plain; charset=x",)}
    assert facts["http.conn.hostname"] == "front.lab"
    assert facts["http.upload.mime"] == "text/plain"
    assert facts["http.upload.file.size"] == 7
    assert facts["http.response.code"] is None
    assert facts["no.such.fact"] is None


def test_those_of_the_response_are_there_when_it_is():
    response = ResponseHead(404)
    response.headers = [(b"Content-Type", b"image/png")]
    facts = Facts(RequestHead(b"GET", b"http", b"h", b"/", "1.1"), response, None)
    assert (facts["http.response.code"], facts["http.download.mime"]) == (404, "image/png")


def test_a_denied_request_gets_the_tenants_page_and_never_leaves():
    effects = HttpEffects(status=451, page="Ask <b>it</b> first")
    talk = Talk(judge=ruled(Verdict(action="deny", reason="no games", http=effects)))
    assert talk.say(GET) == b""
    read = talk.client.take()
    assert read.startswith(b"HTTP/1.1 451 ")
    assert b"Ask &lt;b&gt;it&lt;/b&gt; first" in read
    assert b'Proxy-Status: oxy; error=http_request_denied; details="no games"' in read
    record = talk.records[0]
    assert (record.verdict, record.status, record.decisions) == ("denied", 451, [RULE])
    talk.say(GET)
    assert len(talk.records) == 2  # the connection goes on


LIMIT = ("acme", "acme.yaml", "calm")
CALM = Decision(stage="http", policy="acme.yaml", rule="calm", action="rate-limit", version="7")


def limited(facts):
    return Ruling(Verdict(), [RULE, CALM, Decision("http", "acme.yaml", "allow", "default")], (LIMIT,))


def test_a_request_waits_until_its_limit_is_known_to_hold():
    talk = Talk(judge=limited)
    assert talk.say(GET) == b""
    [(limits, then)] = talk.counted
    assert limits == (LIMIT,)
    then(None)
    assert talk.origin.take().startswith(b"GET ")
    talk.answer(OK)
    assert [each.rule for each in talk.records[0].decisions] == ["r1", "calm", "default"]
    assert len(talk.counted) == 1  # and not once more with the response


def test_a_request_over_a_limit_is_refused_and_what_was_said_before_stays_said():
    talk = Talk(judge=limited)
    talk.say(GET + GET)
    over = Ruling(Verdict(action="deny", reason="too many", http=HttpEffects(status=429)), [CALM])
    talk.counted[0][1](over)
    assert talk.client.take().startswith(b"HTTP/1.1 429 ")
    assert [each.rule for each in talk.records[0].decisions] == ["r1", "calm"]
    talk.counted[1][1](None)
    assert talk.origin.take().startswith(b"GET ")


def test_an_answer_of_limits_for_a_client_that_has_gone_is_nobodys():
    talk = Talk(judge=limited)
    talk.say(GET)
    talk.handler.broken(Side.CLIENT, ConnectionResetError())
    talk.counted[0][1](None)
    assert talk.origin.take() == b""


def test_a_denial_without_effects_is_a_403():
    talk = Talk(judge=ruled(deny("because")))
    talk.say(GET)
    assert talk.client.take().startswith(b"HTTP/1.1 403 Forbidden")


def test_the_body_of_a_denied_request_is_not_read():
    talk = Talk(judge=ruled(deny("because")))
    talk.say(post(b"Content-Length: 100", body=b"abc"))
    assert b"Connection: close" in talk.client.take()
    assert talk.client.is_ended


def test_a_redirect():
    talk = Talk(judge=ruled(Verdict(http=HttpEffects(location="https://help.lab/?x"))))
    assert talk.say(GET) == b""
    assert talk.client.take().startswith(b"HTTP/1.1 302 Found\r\nLocation: https://help.lab/?x\r\n")
    assert talk.records[0].verdict == "redirected"


def test_headers_are_set_and_removed():
    effects = HttpEffects(
        request_headers=(HeaderChange("X-Tenant", "acme"), HeaderChange("user-agent")),
        response_headers=(HeaderChange("Content-Type", "text/html"),),
    )
    talk = Talk(judge=ruled(Verdict(http=effects)))
    heard, read = talk.exchange(GET, OK)
    assert heard == b"GET /a?b HTTP/1.1\r\nHost: web.lab\r\nX-Tenant: acme\r\nVia: 1.1 oxy\r\n\r\n"
    assert b"Content-Type: text/html\r\n" in read
    assert b"text/plain" not in read


@pytest.mark.parametrize("change", [HeaderChange("X", "a\r\nY: b"), HeaderChange("X: y", "a"), HeaderChange("", "a")])
def test_a_change_that_could_be_no_header_changes_nothing(change):
    assert apply_changes([(b"A", b"b")], [change]) == [(b"A", b"b")]


def test_another_origin():
    talk = Talk(judge=ruled(Verdict(origin=("10.9.9.9", 8080))))
    assert talk.say(GET) == b""
    dial = talk.dials[0]
    assert (dial.host, dial.port, dial.server_name) == ("10.9.9.9", 8080, None)
    other = dial.connected()
    assert other.take().startswith(b"GET /a?b")
    dial.receiver.received(OK)
    assert talk.client.take().endswith(b"hello")
    assert (talk.records[0].origin, talk.records[0].verdict) == ("10.9.9.9:8080", "redirected")
    talk.say(GET)
    assert other.take().startswith(b"GET /a?b")  # the same connection again


def test_a_rule_that_needs_the_answer_is_asked_again_when_it_is_there():
    def judge(facts):
        if facts["http.response.code"] is None:
            return Ruling(Verdict(http=HttpEffects(judge_response=True)), [])
        return Ruling(deny("no archives") if facts["http.download.mime"] == "text/plain" else Verdict(), [RULE])

    talk = Talk(judge=judge)
    talk.say(GET)
    read = talk.answer(OK)
    assert read.startswith(b"HTTP/1.1 403 ")
    assert b"hello" not in read
    assert talk.records[0].decisions == [RULE]
    assert talk.origin.is_aborted


def test_a_hook_denies_allows_and_changes():
    def http_request(exchange):
        if exchange.request.path == b"/no":
            return "not here"
        exchange.request.headers.append((b"X-Hook", b"1"))
        return None

    talk = Talk(hooks={"http_request": http_request})
    assert b"X-Hook: 1\r\n" in talk.say(GET)
    talk.answer(OK)
    assert talk.say(GET.replace(b"/a?b", b"/no")) == b""
    assert b"403 Forbidden" in talk.client.take()


def test_a_hook_that_answers_later_holds_request_and_body():
    talk = Talk(hooks={"http_request": "later", "http_response": "later"})
    assert talk.say(post(b"Content-Length: 3", body=b"abc")) == b""
    assert talk.client.is_paused
    talk.asked.pop()[2](None)
    assert talk.origin.take().endswith(b"\r\n\r\nabc")
    assert not talk.client.is_paused
    assert talk.answer(OK) == b""
    talk.asked.pop()[2](None)
    assert talk.client.take().endswith(b"hello")
    assert talk.records[0].fault is None


def test_what_policy_and_both_hooks_say_of_a_response_comes_together():
    def said(name):
        return Verdict(http=HttpEffects(response_headers=(HeaderChange(name, "1"),)))

    hooks = {"http_request": lambda exchange: said("X-Request"), "http_response": lambda exchange: said("X-Response")}
    talk = Talk(judge=ruled(said("X-Policy")), hooks=hooks)
    _, read = talk.exchange(GET, OK)
    assert b"X-Policy: 1\r\nX-Request: 1\r\nX-Response: 1\r\n" in read
