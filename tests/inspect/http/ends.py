"""Clients and origins of HTTP/1.1 that say what was planned, piece by piece, and remember what they hear."""

import h11

BLOB = bytes(range(251)) * 4_000  # of which bodies are parts: 251 is prime, so that no two of them are alike


class Plan:
    """One request, and how it is answered."""

    def __init__(
        self, number, *, method="POST", status=200, upload=0, download=0, is_counted=(True, True), informs=0,
        is_early=False, padding=0, trailers=(False, False), is_last=False,
    ):  # fmt: skip
        self.number, self.method, self.status, self.informs, self.is_early = number, method, status, informs, is_early
        self.padding, self.is_last = padding, is_last  # the origin closes behind its answer
        has_body = method in ("POST", "PUT")
        self.upload = BLOB[number * 7 :][: upload if has_body else 0]
        self.whole = BLOB[number * 13 :][: 0 if status in (204, 304) else download]
        self.download = b"" if method == "HEAD" else self.whole
        self.has_body = has_body
        self.is_counted = is_counted  # Content-Length of the request and of the response
        self.sums = [b"%d" % number if wanted and not counted else None
                     for wanted, counted in zip(trailers, is_counted, strict=True)]  # fmt: skip
        if not has_body:
            self.sums[0] = None
        if method == "HEAD" or status in (204, 304):
            self.sums[1] = None

    @property
    def path(self):
        return b"/%d" % self.number

    def __repr__(self):
        return f"{self.method} {len(self.upload)} -> {self.status} {len(self.whole)} {vars(self)['is_counted']}"


class Heard:
    """A message as it arrived."""

    def __init__(self):
        self.status = None
        self.headers = {}
        self.informed = 0
        self.body = bytearray()
        self.sum = None  # the trailer
        self.has_ended = self.was_reset = self.was_given_up = False

    @property
    def is_page(self):
        """Whether the proxy has answered in place of the origin."""
        return b"proxy-status" in self.headers


class End:
    """What all of them have in common."""

    def __init__(self, wire, chance):
        self.wire, self.chance = wire, chance
        self.is_over = False  # the connection is
        self.is_rude = False  # it has gone while something was to come
        self.half_closes = False  # behind its last request

    def was_reset(self):
        self.is_over = True

    def heard_end(self):
        self.is_over = self.wire.far_has_ended = True  # and is closed

    def read_all(self):
        """Open all windows, and leave them open."""

    def send(self, data):
        if not self.wire.far_has_ended and not self.wire.is_closed:
            self.wire.coming += data


def framed(data, counted):
    """A part of a body of HTTP/1.1."""
    return data if counted else b"%x\r\n%s\r\n" % (len(data), data) if data else b""


def last(counted, checksum):
    if counted:
        return b""
    return b"0\r\n\r\n" if checksum is None else b"0\r\nx-sum: %s\r\n\r\n" % checksum


class Outbox:
    """A message of HTTP/1.1 that is sent in pieces."""

    def __init__(self, head, body, counted, checksum):
        self.head, self.body, self.counted, self.checksum = head, body, counted, checksum
        self.at = 0
        self.is_done = False

    def next(self, most):
        data = self.head
        if not data or most > len(data) or (self.counted and not self.body):
            part = self.body[self.at : self.at + most]
            self.at += len(part)
            data += framed(part, self.counted)
            if self.at == len(self.body):
                data += last(self.counted, self.checksum)
                self.is_done = True
        self.head = b""
        return data


class Browser1(End):
    """A client of HTTP/1.1: sends requests behind one another, waiting for each answer or not."""

    def __init__(self, wire, chance, plans):
        super().__init__(wire, chance)
        self.plans, self.is_pipelining, self.half_closes = plans, chance.random() < 0.5, chance.random() < 0.3
        self.sent = 0  # requests that have begun
        self.box = None
        self.heard_of = {}
        self.answered = 0
        self._reader = None
        self._rest = b""

    def act(self, most):
        if self.is_over or self.wire.far_has_ended:
            return False
        if self.box is None:
            if self.sent == len(self.plans):
                if self.half_closes:
                    self.wire.far_has_ended = True
                return self.half_closes
            if not self.is_pipelining and self.answered < self.sent:
                return False
            plan = self.plans[self.sent]
            self.sent += 1
            head = b"%s %s HTTP/1.1\r\nHost: web.lab\r\n" % (plan.method.encode(), plan.path)
            counted = plan.is_counted[0] or not plan.has_body
            if plan.has_body:
                head += b"Content-Length: %d\r\n" % len(plan.upload) if counted else b"Transfer-Encoding: chunked\r\n"
            self.box = Outbox(head + b"\r\n", plan.upload, counted, plan.sums[0])
            self.heard_of[plan.number] = Heard()
        self.send(self.box.next(most))
        if self.box.is_done:
            self.box = None
        return True

    def heard(self, data):
        while data and self.answered < self.sent:
            plan = self.plans[self.answered]
            heard = self.heard_of[plan.number]
            if self._reader is None:
                self._reader = h11.Connection(h11.CLIENT)
                self._reader.send(h11.Request(method=plan.method, target="/", headers=[("Host", "x")]))
                self._reader.send(h11.EndOfMessage())
            self._reader.receive_data(data)
            data = b""
            if self._read(heard):
                data = self._reader.trailing_data[0]
                self._reader = None
                self.answered += 1
        assert not data, f"bytes behind all answers: {data[:60]}"

    def heard_end(self):
        super().heard_end()
        if self._reader is not None:
            heard = self.heard_of[self.plans[self.answered].number]
            try:
                self._reader.receive_data(b"")
                self._read(heard)
            except h11.RemoteProtocolError:
                heard.was_reset = True

    def _read(self, heard):
        while True:
            event = self._reader.next_event()
            if type(event) is h11.InformationalResponse:
                heard.informed += 1
            elif type(event) is h11.Response:
                heard.status, heard.headers = event.status_code, dict(event.headers)
            elif type(event) is h11.Data:
                heard.body += event.data
            elif type(event) is h11.EndOfMessage:
                heard.sum = dict(event.headers).get(b"x-sum")
                heard.has_ended = True
                return True
            else:
                return False


class Origin1(End):
    """An origin of HTTP/1.1."""

    def __init__(self, wire, chance, plans, uploads):
        super().__init__(wire, chance)
        self.plans, self.uploads = plans, uploads
        self.plan = self.box = self.heard_now = None
        self._reader = h11.Connection(h11.SERVER)
        self.informs = 0

    def act(self, most):
        if self.box is None or self.is_over or self.wire.far_has_ended or self.wire.is_closed:
            return False
        if self.informs:
            self.informs -= 1
            self.send(b"HTTP/1.1 103 Early Hints\r\nLink: </s>\r\n\r\n")
            return True
        self.send(self.box.next(most))
        if self.box.is_done:
            self.box = None
            if self.plan.is_last:
                self.wire.far_has_ended = True
            self._next()
        return True

    def heard(self, data):
        if data:
            self._reader.receive_data(data)
            self._read()

    def _read(self):
        while True:
            event = self._reader.next_event()
            if type(event) is h11.Request:
                self.plan = self.plans[int(event.target[1:])]
                self.heard_now = self.uploads[self.plan.number] = Heard()
                if self.plan.is_early:
                    self._answer()
            elif type(event) is h11.Data:
                self.heard_now.body += event.data
            elif type(event) is h11.EndOfMessage:
                self.heard_now.sum = dict(event.headers).get(b"x-sum")
                self.heard_now.has_ended = True
                if not self.plan.is_early:
                    self._answer()
                self._next()
                return
            else:
                return

    def _next(self):
        """The next request can be read when this one was heard and answered."""
        if self.box is None and self.heard_now is not None and self.heard_now.has_ended:
            rest = self._reader.trailing_data[0]
            self._reader, self.heard_now = h11.Connection(h11.SERVER), None
            assert self.plan.is_early or not rest, "a request before the answer to the last one"
            self.heard(rest)

    def _answer(self):
        plan = self.plan
        counted = plan.is_counted[1] or plan.method == "HEAD" or plan.status in (204, 304)
        head = b"HTTP/1.1 %d Fine\r\n" % plan.status
        if plan.status not in (204, 304):
            length = b"Content-Length: %d\r\n" % len(plan.whole)
            head += length if plan.is_counted[1] else b"Transfer-Encoding: chunked\r\n"
        if plan.is_last and self.chance.random() < 0.5:
            head += b"Connection: close\r\n"
        self.box = Outbox(head + b"\r\n", plan.download, counted, plan.sums[1])
        self.informs = plan.informs
