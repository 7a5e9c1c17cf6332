"""HTTP/1.1 on both sides, as transcripts: what the client says, what the origin hears, and the other way round."""

import pytest

from proxy.errors import ProxyError
from proxy.inspect.http.limits import HIGH_WATER
from proxy.inspect.stream import Side
from proxy.verdict import Ruling, deny
from tests.inspect.http.talk import Talk, tls

GET = b"GET /a?b HTTP/1.1\r\nHost: web.lab\r\nUser-Agent: t/1\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
VIA = b"Via: 1.1 oxy\r\n"


def post(*fields, body=b""):
    return b"POST /up HTTP/1.1\r\nHost: web.lab\r\n" + b"".join(f + b"\r\n" for f in fields) + b"\r\n" + body


def test_a_request_and_its_response_pass_with_one_write_each():
    talk = Talk()
    heard, read = talk.exchange(GET, OK)
    assert heard == b"GET /a?b HTTP/1.1\r\nHost: web.lab\r\nUser-Agent: t/1\r\n" + VIA + b"\r\n"
    assert read == b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n" + VIA + b"\r\nhello"
    assert (talk.origin.writes, talk.client.writes) == (1, 1)
    record = talk.records[0]
    assert (record.method, record.host, record.path, record.status) == ("GET", "web.lab", "/a?b", 200)
    assert (record.request_id, record.response_body_bytes, record.response_type) == ("F1.1", 5, "text/plain")
    assert record.url == "http://web.lab/a?b"
    assert record.fault is None
    assert talk.finished is None


def test_the_connection_is_kept_and_each_request_is_recorded():
    talk = Talk()
    for _ in range(3):
        talk.exchange(GET, OK)
    assert [record.request_id for record in talk.records] == ["F1.1", "F1.2", "F1.3"]


def test_single_bytes_are_as_good_as_segments():
    talk = Talk()
    heard = b"".join(talk.say(bytes([byte])) for byte in GET)
    assert heard.endswith(VIA + b"\r\n")
    read = b"".join(talk.answer(bytes([byte])) for byte in OK)
    assert read.endswith(b"\r\n\r\nhello")
    assert len(talk.records) == 1


def test_pipelined_requests_go_out_one_after_another():
    talk = Talk()
    heard = talk.say(GET + GET.replace(b"/a", b"/c"))
    assert heard.count(b"GET") == 1
    talk.answer(OK)
    assert talk.origin.take().startswith(b"GET /c")
    assert talk.answer(OK).endswith(b"hello")
    assert len(talk.records) == 2


def test_names_keep_their_case_and_their_order():
    heard = Talk().say(b"GET / HTTP/1.1\r\nX-B: 1\r\nhost: h\r\nx-A: 2\r\nX-B: 3\r\n\r\n")
    assert heard == b"GET / HTTP/1.1\r\nHost: h\r\nX-B: 1\r\nx-A: 2\r\nX-B: 3\r\n" + VIA + b"\r\n"


def test_what_concerns_one_connection_goes_no_further():
    heard = Talk().say(
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, X-Secret\r\nKeep-Alive: 5\r\nX-Secret: 1\r\n"
        b"Proxy-Connection: x\r\nUpgrade: h2c\r\nHTTP2-Settings: AAAA\r\nX-Open: 2\r\n\r\n"
    )
    assert heard == b"GET / HTTP/1.1\r\nHost: h\r\nX-Open: 2\r\n" + VIA + b"\r\n"


def test_a_body_with_a_length_passes_as_it_comes():
    talk = Talk()
    assert talk.say(post(b"Content-Length: 6", body=b"abc")).endswith(b"\r\n\r\nabc")
    assert talk.say(b"def") == b"def"
    talk.answer(OK)
    assert talk.records[0].request_body_bytes == 6
    assert talk.records[0].fault is None


def test_a_response_that_began_before_the_requests_end_passes_to_its_own_end():
    talk = Talk()
    talk.say(post(b"Content-Length: 6", body=b"abc"))
    assert talk.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc").endswith(b"\r\n\r\nabc")
    assert talk.say(b"def") == b"def"  # the request is complete, and the response is not
    assert talk.answer(b"def") == b"def"
    assert talk.records[0].fault is None
    assert talk.say(GET).startswith(b"GET /a")


def test_a_chunked_body_and_its_trailers_pass():
    talk = Talk()
    heard = talk.say(post(b"Transfer-Encoding: chunked", b"Trailer: X-Sum", body=b"3\r\nabc\r\n"))
    assert heard.endswith(b"Transfer-Encoding: chunked\r\n" + VIA + b"\r\n3\r\nabc\r\n")
    assert talk.say(b"0\r\nX-Sum: 9\r\n\r\n") == b"0\r\nX-Sum: 9\r\n\r\n"
    read = talk.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-T: 1\r\n\r\n")
    assert read.endswith(b"\r\n\r\n2\r\nhi\r\n0\r\nX-T: 1\r\n\r\n")
    assert talk.say(GET).startswith(b"GET")


def test_interim_responses_pass_and_the_body_waits_for_nobody():
    talk = Talk()
    assert b"Expect: 100-continue" in talk.say(post(b"Content-Length: 2", b"Expect: 100-continue"))
    assert talk.answer(b"HTTP/1.1 100 Continue\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert talk.answer(b"HTTP/1.1 103 Early Hints\r\nLink: </s>\r\n\r\n").endswith(b"Link: </s>\r\n\r\n")
    assert talk.say(b"ok") == b"ok"
    assert talk.answer(OK).endswith(b"hello")


def test_a_final_answer_instead_of_100_leaves_the_connection_usable():
    talk = Talk()
    talk.say(post(b"Content-Length: 2", b"Expect: 100-continue"))
    assert talk.answer(b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n").startswith(b"HTTP/1.1 417 No")
    assert talk.say(b"ok") == b"ok"
    assert talk.say(GET).startswith(b"GET")


@pytest.mark.parametrize("method", [b"HEAD", b"GET"])
def test_a_response_without_a_body_keeps_its_length(method):
    talk = Talk()
    status = b"200 OK" if method == b"HEAD" else b"304 Not Modified"
    talk.say(GET.replace(b"GET", method, 1))
    read = talk.answer(b"HTTP/1.1 " + status + b"\r\nContent-Length: 99\r\n\r\n")
    assert b"Content-Length: 99" in read
    assert read.endswith(b"\r\n\r\n")
    assert talk.say(GET).startswith(b"GET")


def test_a_response_until_the_end_is_chunked_for_a_client_that_may_stay():
    talk = Talk()
    talk.say(GET)
    assert talk.answer(b"HTTP/1.1 200 OK\r\n\r\nabc").endswith(b"\r\n\r\n3\r\nabc\r\n")
    talk.handler.ended(Side.ORIGIN)
    assert talk.client.take() == b"0\r\n\r\n"
    assert talk.client.is_ended


def test_a_client_of_1_0_gets_neither_chunks_nor_interim_responses():
    talk = Talk()
    assert b"Host: 192.0.2.1\r\n" in talk.say(b"GET / HTTP/1.0\r\n\r\n")
    assert talk.answer(b"HTTP/1.1 103 Early\r\n\r\n") == b""
    read = talk.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
    assert read == b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + VIA + b"\r\nhi"
    assert talk.client.is_ended


@pytest.mark.parametrize("who", ["client", "origin"])
def test_either_side_may_end_the_connection(who):
    talk = Talk()
    close = b"Connection: close\r\n\r\n"
    talk.say(GET if who == "origin" else GET[:-2] + close)
    read = talk.answer(OK if who == "client" else OK.replace(b"\r\n\r\n", b"\r\n" + close))
    assert b"Connection: close\r\n" in read
    assert talk.client.is_ended
    talk.handler.ended(Side.CLIENT)
    assert talk.finished is not None


def test_a_client_that_closes_its_half_still_gets_its_answer():
    talk = Talk()
    talk.say(GET)
    talk.handler.ended(Side.CLIENT)
    assert talk.answer(OK).endswith(b"hello")
    assert talk.finished == ("client_closed", "client")


def test_an_origin_that_closes_between_requests_ends_the_client_too():
    talk = Talk()
    talk.exchange(GET, OK)
    talk.handler.ended(Side.ORIGIN)
    assert talk.client.is_ended
    assert not talk.client.is_aborted


def test_whole_urls_and_connect_are_for_the_proxy_behind():
    talk = Talk()
    heard = talk.say(b"GET http://other.lab:8080/x HTTP/1.1\r\nHost: ignored\r\n\r\n")
    assert heard.startswith(b"GET http://other.lab:8080/x HTTP/1.1\r\nHost: other.lab:8080\r\n")
    talk.answer(OK)
    assert (talk.records[0].host, talk.records[0].port) == ("other.lab", 8080)


def test_connect_becomes_a_tunnel_of_bytes_with_half_closes():
    talk = Talk()
    assert talk.say(b"CONNECT db.lab:5432 HTTP/1.1\r\nHost: db.lab:5432\r\n\r\n").startswith(b"CONNECT db.lab:5432 ")
    assert talk.answer(b"HTTP/1.1 200 Open\r\n\r\n\x00srv").endswith(b"\r\n\r\n\x00srv")
    assert talk.say(b"\x01cli") == b"\x01cli"
    talk.handler.ended(Side.CLIENT)
    assert talk.origin.is_ended
    assert talk.answer(b"rest") == b"rest"
    talk.handler.ended(Side.ORIGIN)
    assert talk.finished == ("client_closed", "client")
    assert (talk.records[0].upgrade, talk.records[0].response_body_bytes) == ("connect", 8)


def test_an_upgrade_that_is_refused_is_a_response_like_any_other():
    talk = Talk()
    talk.say(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n")
    assert talk.answer(OK).endswith(b"hello")
    assert talk.say(GET).startswith(b"GET")


def test_bytes_of_an_unknown_upgrade_pass_unread():
    talk = Talk()
    assert b"Upgrade: foo/2" in talk.say(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: foo/2\r\n\r\n")
    read = talk.answer(b"HTTP/1.1 101 Switch\r\nConnection: Upgrade\r\nUpgrade: foo/2\r\n\r\nabc")
    assert read.startswith(b"HTTP/1.1 101 Switch\r\n")
    assert read.endswith(b"\r\n\r\nabc")
    assert talk.say(b"\x00\xff") == b"\x00\xff"


# Back-pressure.


def test_the_origin_is_not_read_while_the_client_does_not_take():
    talk = Talk()
    talk.client.takes = False
    talk.say(GET)
    talk.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n" + b"x" * (HIGH_WATER + 1))
    assert talk.origin.is_paused
    talk.drained(Side.CLIENT)
    assert not talk.origin.is_paused


def test_the_client_is_not_read_while_the_origin_does_not_take():
    talk = Talk()
    talk.origin.takes = False
    talk.say(post(b"Content-Length: 900000", body=b"x" * (HIGH_WATER + 1)))
    assert talk.client.is_paused
    talk.drained(Side.ORIGIN)
    assert not talk.client.is_paused


# What must not pass.

BAD = [
    (b"GET / HTTP/1.1\nHost: h\r\n\r\n", "bad_line_end", 400),
    (b"GET / HTTP/1.1\r\nHost: h\nX: y\r\n\r\n", "bad_line_end", 400),
    (b"GET / HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n", "bad_line_end", 400),
    (b"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n", "obs_fold", 400),
    (b"GET / HTTP/1.1\r\nHost: h\r\nX : a\r\n\r\n", "bad_request", 400),
    (b"GET / HTTP/1.1\r\nHost: h\r\nX: a\x00b\r\n\r\n", "bad_request", 400),
    (b"GET / HTTP/1.1\r\n\r\n", "bad_request", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "bad_request", 400),
    (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "bad_request", 400),
    (b"GET http:/x HTTP/1.1\r\nHost: h\r\n\r\n", "bad_request", 400),
    (b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n", "bad_request", 400),
    (b"GET / HTTP/2.0\r\nHost: h\r\n\r\n", "unknown_version", 505),
    (b"GET /\r\n\r\n", "bad_request", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", "bad_request", 400),
    (post(b"Content-Length: 5", b"Transfer-Encoding: chunked"), "both_framings", 400),
    (post(b"Content-Length: 5", b"Content-Length: 6"), "bad_framing", 400),
    (post(b"Content-Length: +5"), "bad_framing", 400),
    (post(b"Transfer-Encoding: gzip, chunked"), "bad_framing", 400),
    (post(b"Transfer-Encoding: identity"), "bad_framing", 400),
    (b"POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", "bad_framing", 400),
    (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 300 + b"\r\n", "too_many_headers", 431),
    (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"y" * 70_000, "headers_too_large", 431),
    (b"GET /" + b"y" * 70_000, "headers_too_large", 431),
    (b"\r\n\r\n\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", "bad_line_end", 400),
]


@pytest.mark.parametrize(("data", "fault", "status"), BAD, ids=[f"{each[1]}-{i}" for i, each in enumerate(BAD)])
def test_what_two_readers_could_read_differently_is_refused(data, fault, status):
    talk = Talk()
    assert talk.say(data) == b""
    read = talk.client.take()
    assert read.startswith(b"HTTP/1.1 %d " % status)
    assert b"Connection: close" in read
    assert b"Proxy-Status: oxy; error=http_request_error" in read
    assert talk.client.is_ended
    assert [(record.fault, record.fault_by) for record in talk.records] == [(fault, "client")]
    talk.handler.ended(Side.CLIENT)
    assert talk.finished == ("client_protocol_error", "client")


@pytest.mark.parametrize("size", [1, 7])
def test_it_is_refused_in_pieces_as_well(size):
    for data, fault, _ in [each for each in BAD[:8] if each[1] != "unknown_version"]:
        talk = Talk()
        for start in range(0, len(data), size):
            talk.say(data[start : start + size])
        assert [record.fault for record in talk.records] == [fault], data


def test_a_blank_line_before_a_request_is_passed_over():
    assert Talk().say(b"\r\n" + GET).startswith(b"GET /a?b")


def test_chunk_extensions_without_end_are_refused():
    talk = Talk()
    talk.say(post(b"Transfer-Encoding: chunked"))
    for _ in range(40):
        talk.say(b"1;" + b"x" * 1000 + b"\r\ny\r\n")
    assert talk.records[0].fault == "chunk_overhead"
    assert b"400 Bad Request" in talk.client.take()


def test_small_chunks_of_a_slow_stream_are_not():
    talk = Talk()
    talk.say(post(b"Transfer-Encoding: chunked"))
    for _ in range(5000):
        assert talk.say(b"1;a=b\r\ny\r\n") == b"1\r\ny\r\n"


def test_what_follows_a_refused_request_is_not_read():
    talk = Talk()
    assert talk.say(BAD[0][0] + GET) == b""
    assert talk.say(GET) == b""
    assert len(talk.records) == 1


@pytest.mark.parametrize(
    ("response", "fault"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "origin_protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "origin_protocol"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "origin_protocol"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000, "response_headers_too_large"),
        (b"HTTP/1.1 101 Sure\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "origin_protocol"),
    ],
)
def test_an_origin_that_breaks_the_protocol_is_said_to(response, fault):
    talk = Talk()
    talk.say(GET)
    read = talk.answer(response)
    assert read.startswith(b"HTTP/1.1 502 Bad Gateway")
    assert talk.origin.is_aborted
    assert (talk.records[0].fault, talk.records[0].fault_by, talk.records[0].status) == (fault, "origin", 502)


def test_an_origin_that_closes_before_its_answer():
    talk = Talk()
    talk.say(GET)
    talk.handler.ended(Side.ORIGIN)
    assert b"error=connection_terminated" in talk.client.take()
    assert talk.records[0].fault == "origin_closed"


def test_a_body_that_ends_too_early_is_cut_for_the_client_too():
    talk = Talk()
    talk.say(GET)
    talk.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nabc")
    talk.handler.ended(Side.ORIGIN)
    assert talk.client.is_aborted
    assert talk.records[0].fault == "response_cut"
    assert talk.finished == ("origin_protocol_error", "origin")


def test_more_than_was_announced_belongs_to_no_response():
    talk = Talk()
    talk.say(GET)
    read = talk.answer(OK + b"HTTP/1.1 200 OK\r\n\r\nevil")
    assert read.endswith(b"hello")
    assert b"evil" not in read
    assert talk.client.is_ended


def test_a_client_that_is_gone_takes_its_request_back():
    talk = Talk()
    talk.say(GET)
    talk.handler.broken(Side.CLIENT, ConnectionResetError("reset"))
    assert talk.origin.is_aborted
    assert talk.records[0].fault == "client_gone"
    assert talk.finished == ("client_reset", "client")


# Time.


def test_a_head_that_does_not_come_is_answered_in_time():
    talk = Talk()
    talk.say(b"GET / HTT")
    for _ in range(29):
        talk.wait(1)
        talk.say(b"x")
    assert talk.records == []
    talk.wait(2)
    assert talk.client.take().startswith(b"HTTP/1.1 408 ")
    assert talk.records[0].fault == "slow_headers"
    assert talk.records[0].duration_ms >= 30_000  # since its first byte
    assert talk.records[0].host == "192.0.2.1"  # all that is known
    talk.wait(3)
    assert talk.finished == ("client_idle_timeout", "client")


def test_an_idle_connection_is_closed():
    talk = Talk()
    talk.exchange(GET, OK)
    talk.wait(74)
    assert talk.finished is None
    talk.wait(2)
    assert talk.finished == ("client_idle_timeout", "client")


def test_a_body_that_drips_is_too_slow():
    talk = Talk()
    talk.say(post(b"Content-Length: 100000", body=b"x" * 10_000))
    for _ in range(14):
        talk.wait(10)
        if talk.finished is None and not talk.records:
            talk.say(b"x")
    assert talk.records[0].fault == "slow_body"
    assert talk.client.take().startswith(b"HTTP/1.1 408 ")
    talk.wait(60)
    assert talk.finished == ("client_idle_timeout", "client")


def test_a_body_of_unknown_length_may_pause():
    talk = Talk()
    talk.say(post(b"Transfer-Encoding: chunked", body=b"1\r\nx\r\n"))
    talk.wait(600)
    assert talk.records == []


def test_a_client_that_does_not_read_is_given_up():
    talk = Talk()
    talk.client.takes = False
    talk.say(GET)
    talk.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n" + b"x" * (HIGH_WATER + 1))
    talk.wait(200)
    assert talk.records[0].fault == "slow_read"
    assert talk.finished == ("client_idle_timeout", "client")


def test_a_client_that_reads_slowly_is_not():
    talk = Talk()
    talk.client.takes = False
    talk.say(GET)
    talk.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n" + b"x" * (HIGH_WATER + 1))
    for _ in range(100):
        talk.client.queued -= 2000
        talk.wait(10)
    assert talk.records == []


def test_a_response_that_does_not_come_is_a_time_out():
    talk = Talk()
    talk.say(GET)
    talk.wait(301)
    assert talk.client.take().startswith(b"HTTP/1.1 504 ")
    assert talk.records[0].fault == "response_timeout"


# Draining, loops, origins that are not there.


def test_drain_ends_after_the_present_request():
    talk = Talk()
    talk.say(GET)
    talk.handler.drain()
    assert b"Connection: close" in talk.answer(OK)
    assert talk.client.is_ended
    talk.handler.ended(Side.CLIENT)
    assert talk.finished == ("drain", "proxy")


def test_drain_of_an_idle_connection_ends_it():
    talk = Talk()
    talk.exchange(GET, OK)
    talk.handler.drain()
    assert talk.client.is_ended


def test_a_request_that_has_been_here_too_often_is_a_loop():
    passes = b"Via: 1.1 oxy, 1.1 other\r\nVia: 2 oxy\r\nVia: 1.1 oxy (c)\r\n\r\n"
    talk = Talk()
    assert talk.say(GET[:-2] + passes) == b""
    read = talk.client.take()
    assert read.startswith(b"HTTP/1.1 508 ")
    assert b"error=proxy_loop_detected" in read
    assert talk.say(GET).startswith(b"GET")


def test_every_request_hears_why_there_is_no_origin():
    error = ProxyError("192.0.2.1:80 refused", side="origin")
    error.__cause__ = ConnectionRefusedError()
    talk = Talk(has_origin=False, failure=error)
    talk.say(GET)
    read = talk.client.take()
    assert read.startswith(b"HTTP/1.1 502 ")
    assert b'Proxy-Status: oxy; error=connection_refused; details="192.0.2.1:80 refused"' in read
    talk.say(GET)
    assert [record.fault for record in talk.records] == ["origin_refused"] * 2


def test_the_scheme_is_that_of_the_clients_side():
    talk = Talk(tls("http/1.1"), tls("http/1.1"))
    talk.exchange(GET, OK)
    assert talk.records[0].url == "https://web.lab/a?b"


def test_pipelined_requests_wait_while_the_client_does_not_read():
    talk = Talk(judge=lambda facts: Ruling(deny("no games"), []))
    talk.client.takes = False
    for _ in range(100):
        talk.handler.received(Side.CLIENT, GET * 50)
    answered = talk.client.take().count(b"HTTP/1.1 403")
    assert talk.client.queued < HIGH_WATER + 64 * 1024
    assert answered < 1_000
    assert talk.client.is_paused
    talk.client.takes = True
    talk.drained(Side.CLIENT)
    assert talk.client.take().count(b"HTTP/1.1 403") > 50
    assert not talk.client.is_paused
