"""An HTTP/2 client or origin by h2, for transcripts."""

import h2.config
import h2.connection
import h2.events
import h2.settings

REQUEST = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"web.lab"), (b":path", b"/a")]


class Peer:
    """One end: what it sends as bytes, what it hears as events."""

    def __init__(self, *, is_client, connect_protocol=False, window=65_535):
        config = h2.config.H2Configuration(client_side=is_client, header_encoding=None, validate_outbound_headers=False)
        self.h2 = h2.connection.H2Connection(config)
        values = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
        if connect_protocol:
            values[h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL] = 1
        self.h2.local_settings = h2.settings.Settings(client=is_client, initial_values=values)
        self.h2.initiate_connection()
        self.events = []
        self.reads = False  # opens its windows again as data comes
        self._unread = {}

    def out(self):
        """Bytes to send."""
        return self.h2.data_to_send()

    def hear(self, data):
        """Events in `data`."""
        heard = self.h2.receive_data(data) if data else []
        self.events += heard
        for event in heard:
            if type(event) is h2.events.DataReceived:
                size = self._unread.get(event.stream_id, 0) + event.flow_controlled_length
                self._unread[event.stream_id] = size
        if self.reads:
            self.read()
        return heard

    def read(self):
        """Open the windows for what has come, and keep them open."""
        self.reads = True
        for number, size in self._unread.items():
            self.h2.acknowledge_received_data(size, number)
        self._unread.clear()

    def headers(self, number, fields, *, end=True):
        self.h2.send_headers(number, fields, end_stream=end)
        return self.out()

    def data(self, number, data, *, end=False):
        self.h2.send_data(number, data, end_stream=end)
        return self.out()

    def of(self, kind, number=None):
        """The events of that kind."""
        return [e for e in self.events if type(e) is kind and number in (None, e.stream_id)]

    def body(self, number):
        return b"".join(e.data for e in self.of(h2.events.DataReceived, number))
