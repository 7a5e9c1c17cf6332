"""A timer wheel: one deadline per item, armed and disarmed in constant time, without scanning all flows."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar


class Timed(Protocol):
    """An item that stores the slot in which it waits, and the one in which it is due; 0 means not armed."""

    timer_slot: int
    timer_due: int


T = TypeVar("T", bound=Timed)


class Wheel(Generic[T]):
    """Deadlines rounded up to `tick_s`. Times are seconds of one monotonic clock of the caller's choice."""

    def __init__(self, tick_s: float = 0.25) -> None:
        self.tick_s = tick_s
        self._slots: dict[int, set[T]] = {}
        self._numbers: dict[int, int] = {}  # one object per slot number for all its items: saves 32 bytes for each
        self._last = 0

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def arm(self, item: T, deadline: float) -> None:
        """Have `expired` return `item` once, at `deadline` or within a tick after it. Replaces an earlier deadline.

        An item with a later deadline stays in its slot until that is reached, as most are postponed again before.
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
        """The items whose deadline has passed. They are no longer armed."""
        current = int(now / self.tick_s)
        if current - self._last > len(self._slots):  # after a long pause: visit the slots in use, not every tick
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
