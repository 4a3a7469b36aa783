"""The compiled code of Triton's kernel: programs that share an output, and the merging of them.

Sums are taken in float64 from a pivot near the data, the mean of the first block that has finite
elements. A pivot that is the mean of n of all N elements costs the squares at most a factor of
N / n in accuracy, since those n elements themselves lie around it.

Triton compiles annotations, too, so there are none: what the names say are pointers are so, and
``n``, ``row``, ``channels`` and ``inner`` are whole numbers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tracking.statistics.kernels import accumulators as k

__all__ = ["PARTIALS", "reduce_blocks"]

PARTIALS = 8
"""Numbers that each program leaves to the last one."""

_INTS, _FLOATS = tl.constexpr(k.INTS), tl.constexpr(k.FLOATS)
_COUNT, _FINITE = tl.constexpr(k.COUNT), tl.constexpr(k.FINITE)
_NEAR, _ABOVE, _HIST = tl.constexpr(k.NEAR), tl.constexpr(k.ABOVE), tl.constexpr(k.HIST)
_MEAN, _REST, _SQUARES = tl.constexpr(k.MEAN), tl.constexpr(k.REST), tl.constexpr(k.SQUARES)
_MIN, _MAX = tl.constexpr(k.MIN), tl.constexpr(k.MAX)
_BINS = tl.constexpr(k.HIST_BINS)
# A histogram's size has to be a power of two; what must not be counted goes to its last place.
_PLACES = tl.constexpr(128)


@triton.jit(do_not_specialize=["row", "channels", "inner"])
def reduce_blocks(
    x_ptr,
    n,
    ints_ptr,
    row,
    floats_ptr,
    alive_ptr,
    channels,
    inner,
    partials_ptr,
    finished_ptr,
    eps: tl.constexpr,
    threshold: tl.constexpr,
    has_channels: tl.constexpr,
    large: tl.constexpr,
    block: tl.constexpr,
    most: tl.constexpr,
):
    """Add ``x`` (n,) to a row: each program reduces some blocks, the last one merges them all."""
    ints_ptr += row * _INTS
    program, programs = tl.program_id(0), tl.num_programs(0)
    start = program * block
    # The sum makes a value of 1, which is compiled in, one of the program's own.
    if large:
        start, n = start.to(tl.int64), n + tl.zeros((), tl.int64)
    else:
        n = n + tl.zeros((), tl.int32)
    finite = tl.zeros((block,), tl.int32)
    near = tl.zeros((block,), tl.int32)
    above = tl.zeros((block,), tl.int32)
    sums = tl.zeros((block,), tl.float64)
    squares = tl.zeros((block,), tl.float64)
    low = tl.full((block,), float("inf"), tl.float64)
    high = tl.full((block,), float("-inf"), tl.float64)
    hist = tl.zeros((_PLACES,), tl.int32)
    pivot = tl.zeros((), tl.float64)
    seen = tl.zeros((), tl.int32)
    for begin in range(start, n, programs * block):
        at = begin + tl.arange(0, block)
        inside = at < n
        x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float64)
        usual = (tl.abs(x) < float("inf")) & inside
        if seen == 0:
            seen = tl.sum(usual.to(tl.int32), 0)
            pivot = tl.sum(tl.where(usual, x, 0.0), 0) / tl.maximum(seen, 1)
        off = tl.where(usual, x - pivot, 0.0)
        sums += off
        squares += off * off
        low = tl.where(usual, tl.minimum(low, x), low)
        high = tl.where(usual, tl.maximum(high, x), high)
        finite += usual.to(tl.int32)
        # A number as it stands would be float32.
        near += ((tl.abs(x) <= tl.full((), eps, tl.float64)) & inside).to(tl.int32)
        above += ((x > tl.full((), threshold, tl.float64)) & inside).to(tl.int32)
        hist += tl.histogram(_bins(x, inside), _PLACES)
        if has_channels:
            living = alive_ptr + row * channels + (at // inner) % channels
            tl.store(living, 1, mask=(x > 0) & inside)
    places = tl.arange(0, _PLACES)
    wanted = (places < _BINS) & (hist > 0)
    tl.atomic_add(ints_ptr + _HIST + places, hist.to(tl.int64), mask=wanted)
    number, total = tl.sum(finite, 0), tl.sum(sums, 0)
    rest = total / tl.maximum(number, 1)
    mine = partials_ptr + program
    _leave(mine, most, number, pivot, rest, tl.maximum(tl.sum(squares, 0) - total * rest, 0.0))
    mine += 4 * most
    _leave(mine, most, tl.min(low, 0), tl.max(high, 0), tl.sum(near, 0), tl.sum(above, 0))
    tl.debug_barrier()  # what every thread has stored comes before the counting
    if tl.atomic_add(finished_ptr, 1) == programs - 1:
        tl.store(finished_ptr, 0)
        _add_partials(partials_ptr, programs, n, ints_ptr, floats_ptr + row * _FLOATS, most)


@triton.jit
def _leave(place, most: tl.constexpr, a, b, c, d):
    """Four numbers for the last program to find."""
    tl.store(place, a.to(tl.float64))
    tl.store(place + most, b.to(tl.float64))
    tl.store(place + 2 * most, c.to(tl.float64))
    tl.store(place + 3 * most, d.to(tl.float64))


@triton.jit
def _bins(x, inside):
    """Bins of the contract's histogram; NaN and what lies outside are thrown away."""
    bins = tl.minimum(tl.maximum(tl.floor(x * 4.0) + 41.0, 0.0), _BINS - 1.0)
    is_number = x == x  # noqa: PLR0124 - false for NaN alone
    return tl.where(is_number & inside, bins, _PLACES - 1.0).to(tl.int32)


@triton.jit
def _add_partials(partials_ptr, programs, size, ints_ptr, floats_ptr, most: tl.constexpr):
    """Merge what the programs found, and add it to the row."""
    at = tl.arange(0, most)
    there = at < programs
    n = tl.load(partials_ptr + at, mask=there, other=0.0)
    pivot = tl.load(partials_ptr + most + at, mask=there, other=0.0)
    rest = tl.load(partials_ptr + 2 * most + at, mask=there, other=0.0)
    squares = tl.load(partials_ptr + 3 * most + at, mask=there, other=0.0)
    low = tl.load(partials_ptr + 4 * most + at, mask=there, other=float("inf"))
    high = tl.load(partials_ptr + 5 * most + at, mask=there, other=float("-inf"))
    near = tl.load(partials_ptr + 6 * most + at, mask=there, other=0.0)
    above = tl.load(partials_ptr + 7 * most + at, mask=there, other=0.0)
    finite = tl.sum(n, 0)
    if finite > 0:
        # From one of the pivots, so that means that lie close together lose nothing.
        base = tl.max(tl.where(n > 0, pivot, float("-inf")), 0)
        off = tl.where(n > 0, (pivot - base) + rest, 0.0)
        mean_off = tl.sum(n * off, 0) / finite
        between = tl.sum(n * (off - mean_off) * (off - mean_off), 0)
        mean, mean_rest = _two_sum(base, mean_off)
        before = tl.load(ints_ptr + _FINITE)
        old, old_rest = tl.load(floats_ptr + _MEAN), tl.load(floats_ptr + _REST)
        share = finite / (before + finite)
        mean, mean_rest, added = _merge(before, share, old, old_rest, mean, mean_rest)
        tl.store(floats_ptr + _MEAN, mean)
        tl.store(floats_ptr + _REST, mean_rest)
        squares_ptr = floats_ptr + _SQUARES
        tl.store(squares_ptr, tl.load(squares_ptr) + tl.sum(squares, 0) + between + added)
        tl.store(floats_ptr + _MIN, tl.minimum(tl.load(floats_ptr + _MIN), tl.min(low, 0)))
        tl.store(floats_ptr + _MAX, tl.maximum(tl.load(floats_ptr + _MAX), tl.max(high, 0)))
    _add_count(ints_ptr + _COUNT, size)
    _add_count(ints_ptr + _FINITE, finite)
    _add_count(ints_ptr + _NEAR, tl.sum(near, 0))
    _add_count(ints_ptr + _ABOVE, tl.sum(above, 0))


@triton.jit
def _merge(before, share, old, old_rest, mean, rest):
    """``accumulators.merge``, which Triton cannot use: it has no powers, and looks for its own."""
    delta, delta_rest = mean - old, rest - old_rest
    distance = delta + delta_rest
    between = distance * distance * (before * share)
    new, lost = _two_sum(old, delta * share)
    return new, old_rest + delta_rest * share + lost, between


@triton.jit
def _two_sum(a, b):
    """A sum, and what rounding took from it (Knuth)."""
    total = a + b
    back = total - a
    return total, (a - (total - back)) + (b - back)


@triton.jit
def _add_count(place, count):
    tl.store(place, tl.load(place) + count.to(tl.int64))
