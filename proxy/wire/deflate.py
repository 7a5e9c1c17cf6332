"""Compression of WebSocket messages (RFC 7692) by wsproto, with a fault of it mended."""

from __future__ import annotations

from typing import Any

from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import CloseReason, Opcode, RsvBits


class Deflate(PerMessageDeflate):
    """wsproto takes the rest of a compressed message for plain when a control frame has come between its frames: a hook
    would read something else than the far end does."""

    def frame_inbound_header(self, proto: Any, opcode: Opcode, rsv: RsvBits, payload_length: int) -> Any:
        """Which reserved bits may be set."""
        if not opcode.iscontrol():
            return super().frame_inbound_header(proto, opcode, rsv, payload_length)
        self._inbound_is_compressible = False
        return CloseReason.PROTOCOL_ERROR if rsv.rsv1 else RsvBits(True, False, False)

    def frame_inbound_complete(self, proto: Any, fin: bool) -> Any:
        """What is left to be inflated."""
        return super().frame_inbound_complete(proto, fin) if self._inbound_is_compressible else None
