"""A model of PyTorch's caching allocator on CUDA (c10/cuda/CUDACachingAllocator.cpp, default settings).

Sizes are rounded up to 512 bytes. Buffers of at most 1 MiB come from the small pool, in segments of 2 MiB; others from
the large pool, in segments of 20 MiB below 10 MiB, else of the size rounded up to 2 MiB. A free block is chosen by best
fit, split where enough is left, and merged with its free neighbors when it is freed; segments are kept. Not modeled:
streams, and what happens when the device is full (kept segments are given back and the request is tried again).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field

MIB = 2**20
ROUNDING = 512
SMALL_SIZE, SMALL_SEGMENT = MIB, 2 * MIB
MEDIUM_SIZE, MEDIUM_SEGMENT, LARGE_ROUNDING = 10 * MIB, 20 * MIB, 2 * MIB


@dataclass(eq=False, slots=True)
class Block:
    """A range of a segment; `before` and `after` are its neighbors there."""

    address: int
    size: int
    small: bool
    is_free: bool = False
    before: Block | None = None
    after: Block | None = None

    @property
    def key(self) -> tuple[int, int]:
        return self.size, self.address


@dataclass
class CachingAllocator:
    """Bytes allocated and reserved now, and the most there have been."""

    allocated: int = 0
    reserved: int = 0
    peak_allocated: int = 0
    _free: dict[bool, list[tuple[int, int]]] = field(default_factory=lambda: {True: [], False: []})
    _blocks: dict[int, Block] = field(default_factory=dict)  # free ones by address

    def allocate(self, size: int) -> Block:
        size = -(-max(size, 1) // ROUNDING) * ROUNDING
        small = size <= SMALL_SIZE
        keys = self._free[small]
        position = bisect_left(keys, (size, 0))
        block = self._take(keys[position], small) if position < len(keys) else self._new_segment(size, small)
        rest = block.size - size
        if rest >= ROUNDING if small else rest > SMALL_SIZE:
            self._split(block, size)
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return block

    def free(self, block: Block) -> None:
        self.allocated -= block.size
        for neighbor in (block.before, block.after):
            if neighbor is not None and neighbor.is_free:
                self._take(neighbor.key, block.small)
                block.address = min(block.address, neighbor.address)
                block.size += neighbor.size
                if neighbor is block.before:
                    block.before = neighbor.before
                    if block.before is not None:
                        block.before.after = block
                else:
                    block.after = neighbor.after
                    if block.after is not None:
                        block.after.before = block
        self._put(block)

    def _new_segment(self, size: int, small: bool) -> Block:
        if small:
            segment = SMALL_SEGMENT
        else:
            segment = MEDIUM_SEGMENT if size < MEDIUM_SIZE else -(-size // LARGE_ROUNDING) * LARGE_ROUNDING
        block = Block(self.reserved, segment, small)
        self.reserved += segment
        return block

    def _split(self, block: Block, size: int) -> None:
        rest = Block(block.address + size, block.size - size, block.small, before=block, after=block.after)
        if block.after is not None:
            block.after.before = rest
        block.after, block.size = rest, size
        self._put(rest)

    def _put(self, block: Block) -> None:
        block.is_free = True
        insort(self._free[block.small], block.key)
        self._blocks[block.address] = block

    def _take(self, key: tuple[int, int], small: bool) -> Block:
        keys = self._free[small]
        del keys[bisect_left(keys, key)]
        block = self._blocks.pop(key[1])
        block.is_free = False
        return block


def replay(sizes: Sequence[int], events: Sequence[int], step: int, steps: int = 2) -> CachingAllocator:
    """The allocator after what was allocated before event `step`, and the step after it so many times.

    Event i + 1 allocates buffer i of `sizes`, −(i + 1) frees it. What a step leaves is freed when the next one begins.
    """
    allocator, blocks = CachingAllocator(), dict[int, Block]()
    in_step = {event - 1 for event in events[step:] if event > 0}
    for repetition in range(steps):
        for buffer in in_step & blocks.keys():
            allocator.free(blocks.pop(buffer))
        for event in events[step:] if repetition else events:
            if event > 0:
                blocks[event - 1] = allocator.allocate(sizes[event - 1])
            elif (buffer := -event - 1) in blocks:  # what the setup made is freed once
                allocator.free(blocks.pop(buffer))
    return allocator
