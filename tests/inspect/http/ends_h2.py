"""The same of HTTP/2, by h2."""

import contextlib

import h2.events as events
import h2.exceptions
import h2.settings
from hyperframe.frame import GoAwayFrame

from tests.inspect.http.ends import End, Heard
from tests.inspect.http.h2_peer import Peer


def next_frame(waiting):
    """Take the next frame that is whole from what waits; the preface is one as well."""
    size = 24 if waiting.startswith(b"PRI") else 9 + int.from_bytes(waiting[:3], "big")
    if len(waiting) < max(size, 9):
        return None
    frame = bytes(waiting[:size])
    del waiting[:size]
    return frame


class Stream2:
    """What one end of HTTP/2 has still to say on a stream."""

    def __init__(self, plan, body, checksum, heard):
        self.plan, self.body, self.checksum, self.heard = plan, body, checksum, heard
        self.at = 0
        self.headed = self.is_done = False
        self.informs = 0


class End2(End):
    """Either end of HTTP/2, by h2."""

    def __init__(self, wire, chance, plans, *, is_client, window, streams=None):
        super().__init__(wire, chance)
        # the proxy may send a request before it has heard of the origin's settings (RFC 9113 3.4)
        begins_with = window if is_client else max(window, 65_535)
        self.peer = Peer(is_client=is_client, window=begins_with)
        self.window, self.most_streams = window, streams
        self.is_known = False  # the settings so far have been acknowledged
        self.plans = plans
        self.streams = {}
        self.went_away = None  # the last stream that the proxy takes
        self._waiting = bytearray()
        self.send(self.peer.out())

    def read_all(self):
        self.peer.reads = True
        if self.is_known and self.window < 65_535:
            self._resize(65_535)
        self.peer.read()
        self.send(self.peer.out())

    def _resize(self, window):
        """Make the windows of all streams larger or smaller."""
        self.window, self.is_known = window, False
        settings = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
        if self.most_streams is not None:
            settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS] = self.most_streams
        self.peer.h2.update_settings(settings)

    def heard(self, data):
        """GOAWAY is none of h2's, which would take no frame after it; what is under way goes on (RFC 9113 6.8)."""
        self._waiting += data
        while (frame := next_frame(self._waiting)) is not None:
            if frame[3:4] == b"\7":
                self.went_away = int.from_bytes(frame[9:13], "big")
            elif frame[3:4] == b"\1" and self._was_given_up(int.from_bytes(frame[5:9], "big")):
                self.peer.h2.decoder.decode(frame[9:])  # h2 takes an interim response that comes late for an error
            else:
                self._hear(frame)

    def _was_given_up(self, number):
        return number in self.streams and self.streams[number].heard.was_given_up

    def _hear(self, data):
        for event in self.peer.hear(data):
            if type(event) is events.SettingsAcknowledged:
                self.is_known = True
                if not self.streams and self.window != self.peer.h2.local_settings.initial_window_size:
                    self._resize(self.window)  # with streams, h2 would refuse empty frames below 0, and one too many
            number = getattr(event, "stream_id", None)
            if type(event) in (events.RequestReceived, events.ResponseReceived):
                self.begun(number, event)
            stream = self.streams.get(number)
            if stream is None:
                continue
            heard = stream.heard
            if type(event) is events.InformationalResponseReceived:
                heard.informed += 1
            elif type(event) is events.DataReceived:
                heard.body += event.data
            elif type(event) is events.TrailersReceived:
                heard.sum = dict(event.headers).get(b"x-sum")
            elif type(event) is events.StreamReset:
                stream.is_done = True
                heard.was_reset = not heard.has_ended
            elif type(event) is events.StreamEnded:
                heard.has_ended = True
                self.complete(stream)
        self.send(self.peer.out())

    def complete(self, stream):
        """All of it was heard."""

    def reset_any(self):
        """Give one of the streams up."""
        number = self.chance.choice(list(self.streams))
        stream = self.streams[number]
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self.peer.h2.reset_stream(number, self.chance.choice([0, 7, 8]))
        stream.is_done = True
        stream.heard.was_given_up = not stream.heard.has_ended
        self.send(self.peer.out())

    def go_away(self):
        """Take no more streams, and maybe not the last."""
        last = max(0, max(self.streams, default=0) - self.chance.choice([0, 0, 2]))
        self.send(GoAwayFrame(0, last_stream_id=last).serialize())
        for number, stream in self.streams.items():
            if number > last and not self.peer.h2.config.client_side:
                stream.is_done = True

    def say(self, number, stream, most):
        """The next piece of a stream; whether there was one."""
        made = self.peer.h2
        if stream.is_done or not stream.headed:
            return False
        room = min(made.local_flow_control_window(number), made.max_outbound_frame_size, most)
        padding = min(stream.plan.padding, max(room - 1, 0))
        part = stream.body[stream.at : stream.at + max(room - padding - bool(padding), 0)]
        if len(part) == 0 and stream.at < len(stream.body):
            return False
        stream.at += len(part)
        is_last = stream.at == len(stream.body)
        is_end = is_last and stream.checksum is None
        if part or is_end:
            made.send_data(number, part, end_stream=is_end, pad_length=padding if part and padding else None)
        if is_last and stream.checksum is not None:
            made.send_headers(number, [(b"x-sum", stream.checksum)], end_stream=True)
        stream.is_done = is_last
        self.send(self.peer.out())
        return True

    def say_any(self, most):
        numbers = [number for number, stream in self.streams.items() if stream.headed and not stream.is_done]
        self.chance.shuffle(numbers)
        return any(self.say(number, self.streams[number], most) for number in numbers)


class Browser2(End2):
    """A client of HTTP/2: all requests at once, as far as it is let."""

    def __init__(self, wire, chance, plans, *, window):
        super().__init__(wire, chance, plans, is_client=True, window=window)
        self.sent = 0
        self.heard_of = {}

    def act(self, most):
        if self.is_over or self.wire.far_has_ended or self.wire.is_closed:
            return False
        if self.sent < len(self.plans) and self.went_away is None and self.chance.random() < 0.5:
            made = self.peer.h2
            if made.open_outbound_streams < made.remote_settings.max_concurrent_streams:
                self._begin(self.plans[self.sent])
                return True
        if self.say_any(most):
            return True
        if self.sent < len(self.plans) and self.went_away is None:
            made = self.peer.h2
            if made.open_outbound_streams < made.remote_settings.max_concurrent_streams:
                self._begin(self.plans[self.sent])
                return True
        return False

    def _begin(self, plan):
        self.sent += 1
        number = self.peer.h2.get_next_available_stream_id()
        fields = [(b":method", plan.method.encode()), (b":scheme", b"https"), (b":authority", b"web.lab"),
                  (b":path", plan.path)]  # fmt: skip
        if plan.has_body and plan.is_counted[0]:
            fields.append((b"content-length", b"%d" % len(plan.upload)))
        heard = self.heard_of[plan.number] = Heard()
        stream = self.streams[number] = Stream2(plan, plan.upload, plan.sums[0], heard)
        stream.headed, stream.is_done = True, not plan.has_body
        self.send(self.peer.headers(number, fields, end=not plan.has_body))

    def begun(self, number, event):
        heard = self.streams[number].heard
        heard.headers = dict(event.headers)
        heard.status = int(heard.headers[b":status"])


class Origin2(End2):
    """An origin of HTTP/2."""

    def __init__(self, wire, chance, plans, uploads, *, window, streams=100):
        super().__init__(wire, chance, plans, is_client=False, window=window, streams=streams)
        self.uploads = uploads

    def begun(self, number, event):
        plan = self.plans[int(dict(event.headers)[b":path"][1:])]
        heard = self.uploads[plan.number] = Heard()
        stream = self.streams[number] = Stream2(plan, plan.download, plan.sums[1], heard)
        stream.informs = plan.informs
        stream.answers = plan.is_early

    def complete(self, stream):
        stream.answers = True

    def act(self, most):
        if self.is_over or self.wire.far_has_ended or self.wire.is_closed:
            return False
        for number, stream in self.streams.items():
            if stream.answers and not stream.headed and not stream.is_done and self.chance.random() < 0.8:
                self._head(number, stream)
                return True
        if self.say_any(most):
            return True
        for number, stream in self.streams.items():
            if stream.answers and not stream.headed and not stream.is_done:
                self._head(number, stream)
                return True
        return False

    def _head(self, number, stream):
        plan = stream.plan
        if stream.informs:
            stream.informs -= 1
            self.send(self.peer.headers(number, [(b":status", b"103"), (b"link", b"</s>")], end=False))
            return
        fields = [(b":status", b"%d" % plan.status)]
        if plan.is_counted[1] and plan.status not in (204, 304):
            fields.append((b"content-length", b"%d" % len(plan.whole)))
        stream.headed = True
        stream.is_done = not plan.download and stream.checksum is None
        self.send(self.peer.headers(number, fields, end=stream.is_done))
