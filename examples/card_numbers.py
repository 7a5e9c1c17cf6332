"""Refuse uploads with card numbers, and mask them in responses: `hooks: "examples.card_numbers:CardNumbers"`.

Bodies pass in parts, and a number may span two of them: as many bytes as the longest number are held back.
Compressed bodies cannot be read here, so origins are asked for uncompressed ones, and compressed uploads are refused.
"""

from __future__ import annotations

import re

from proxy.hooks import HeaderChange, Hooks, HttpBodyPart, HttpEffects, HttpRequest, Verdict, deny

NUMBER = re.compile(rb"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)")
LONGEST = 38  # 19 digits, 18 separators, and one more: what may begin in this part and end in the next
PLAIN = HeaderChange("Accept-Encoding", "identity")
READ = Verdict(http=HttpEffects(reads=("request", "response"), request_headers=(PLAIN,)))


class CardNumbers(Hooks):
    """Looks for numbers of 13 to 19 digits that pass Luhn's check."""

    async def http_request(self, request: HttpRequest) -> Verdict | None:
        encoding = dict(request.headers).get("content-encoding", "identity")
        return READ if encoding == "identity" else deny(f"uploads must not be compressed ({encoding})")

    async def http_body(self, part: HttpBodyPart) -> bytes | Verdict:
        data = (part.state or b"") + part.data
        if part.response is None and any(map(is_card, NUMBER.findall(data))):
            return deny("the upload holds a card number")
        data = NUMBER.sub(lambda match: masked(match[0]), data)
        part.state = b"" if part.is_last else data[-LONGEST:]
        return data[: len(data) - len(part.state)]


def is_card(digits: bytes) -> bool:
    """Luhn's check (ISO/IEC 7812-1): every second digit from the right is doubled."""
    numbers = [digit - 48 for digit in digits if 48 <= digit <= 57]
    doubled = [number if at % 2 == 0 else number * 2 - 9 * (number > 4) for at, number in enumerate(reversed(numbers))]
    return sum(doubled) % 10 == 0


def masked(digits: bytes) -> bytes:
    """The last four digits of a card number, the rest masked; any other number unchanged."""
    return b"*" * (len(digits) - 4) + digits[-4:] if is_card(digits) else digits
