"""The KV cache of an engine: blocks, and which of them hold a known prefix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

UNKNOWN = -1  # content of a block that no other request can have
NOTHING = -2  # a block that is not full yet


class Blocks:
    """Blocks are numbers from 1. Those that are free form a ring through block 0, which is never given out, in the order in
    which they are given out again: vLLM's queue, where a block with a known prefix comes last.

    ``recent_first``: blocks without a known prefix are given out again at once, the last one first (since vLLM 0.30).
    """

    def __init__(self, count: int, *, caching: bool, recent_first: bool = True) -> None:
        self.free = max(0, count - 1)
        self.total = self.free
        self._caching = caching
        self._recent_first = recent_first
        self._next = [*range(1, count), 0] if count else [0]
        self._last = [count - 1, *range(count - 1)] if count else [0]
        self._users = [0] * count
        self._content = [NOTHING] * count
        self._places: dict[int, list[int]] = {}  # blocks that hold this content, the oldest first

    def found(self, contents: Sequence[int], most: int) -> list[int]:
        """The blocks that hold the longest run of these contents from the first on, ``most`` at most."""
        if not self._caching:
            return []
        blocks = []
        for content in contents[:most]:
            places = self._places.get(content)
            if places is None:
                break
            blocks.append(places[0])
        return blocks

    def unused(self, blocks: Iterable[int]) -> int:
        """How many of these are free: to use them again takes them off the free ones."""
        return sum(not self._users[block] for block in blocks)

    def share(self, blocks: Iterable[int]) -> None:
        """One more user for these, which hold what it needs."""
        for block in blocks:
            if not self._users[block]:
                self._unlink(block)
                self.free -= 1
            self._users[block] += 1

    def take(self, count: int) -> list[int]:
        """So many free blocks, whatever they hold; there must be as many."""
        taken = []
        for _ in range(count):
            block = self._next[0]
            self._unlink(block)
            self._forget(block)
            self._users[block] = 1
            taken.append(block)
        self.free -= count
        return taken

    def fill(self, block: int, content: int) -> None:
        """This block is full, and holds this now."""
        self._content[block] = content
        if content != UNKNOWN and self._caching:
            self._places.setdefault(content, []).append(block)

    def give_back(self, blocks: Sequence[int]) -> None:
        """One user less for the blocks of a request, in the order of its tokens."""
        first: list[int] = []
        last: list[int] = []
        for block in reversed(blocks):
            self._users[block] -= 1
            if not self._users[block]:
                known = self._caching and self._content[block] != NOTHING
                (last if known or not self._recent_first else first).append(block)
        for block in reversed(first):
            self._link(block, 0)
        for block in last:
            self._link(block, self._last[0])
        self.free += len(first) + len(last)

    def _forget(self, block: int) -> None:
        content, self._content[block] = self._content[block], NOTHING
        if content >= 0 and (places := self._places.get(content)):
            places.remove(block)
            if not places:
                del self._places[content]

    def _unlink(self, block: int) -> None:
        before, after = self._last[block], self._next[block]
        self._next[before], self._last[after] = after, before

    def _link(self, block: int, before: int) -> None:
        after = self._next[before]
        self._next[before] = self._last[after] = block
        self._last[block], self._next[block] = before, after
