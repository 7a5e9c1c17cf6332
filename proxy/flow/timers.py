"""A timer wheel: one deadline for each item, armed and disarmed in constant time, no scan of all flows."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar


class Timed(Protocol):
    """An item with room for the slot in which it waits, and the one in which it is due; 0 means not armed."""

    timer_slot: int
    timer_due: int


T = TypeVar("T", bound=Timed)


class Wheel(Generic[T]):
    """Deadlines rounded up to `tick_s`; times are seconds of any monotonic clock that the caller uses throughout."""

    def __init__(self, tick_s: float = 0.25) -> None:
        self.tick_s = tick_s
        self._slots: dict[int, set[T]] = {}
        self._numbers: dict[int, int] = {}  # one object for all items of a slot: 32 bytes of each
        self._last = 0

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def arm(self, item: T, deadline: float) -> None:
        """Let `expired` return `item` once, at or within a tick after `deadline`; an earlier deadline is replaced.

        One that is put off stays where it waits until that comes up: most are put off again before.
        """
        slot = int(deadline / self.tick_s) + 1
        if slot <= self._last:
            slot = self._last + 1
        slot = self._numbers.setdefault(slot, slot)
        if not 0 < item.timer_slot <= slot:
            self.disarm(item)
            self._put(item, slot)
        item.timer_due = slot

    def _put(self, item: T, slot: int) -> None:
        item.timer_slot = slot
        waiting = self._slots.get(slot)
        if waiting is None:
            self._slots[slot] = {item}
        else:
            waiting.add(item)

    def disarm(self, item: T) -> None:
        if item.timer_slot:
            waiting = self._slots.get(item.timer_slot)
            if waiting is not None:
                waiting.discard(item)
                if not waiting:
                    del self._slots[item.timer_slot]
            item.timer_slot = item.timer_due = 0

    def expired(self, now: float) -> list[T]:
        """The items whose deadline has passed; they are no longer armed."""
        current = int(now / self.tick_s)
        if current - self._last > len(self._slots):  # a long pause: look at what is armed, not at every tick
            due = sorted(slot for slot in self._slots if slot <= current)
        else:
            due = [slot for slot in range(self._last + 1, current + 1) if slot in self._slots]
        self._last = max(self._last, current)
        for slot in [slot for slot in self._numbers if slot <= current]:
            del self._numbers[slot]
        items = []
        for slot in due:
            for item in self._slots.pop(slot):
                if item.timer_due > current:
                    self._put(item, item.timer_due)
                else:
                    item.timer_slot = item.timer_due = 0
                    items.append(item)
        return items
