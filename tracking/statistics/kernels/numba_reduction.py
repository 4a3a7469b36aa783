"""The CPU's compiled code as a whole: a block of memory is shared out among torch's own threads.

A thread takes a chunk, adds it up in accumulators of its own, and takes the next one. Moments are
kept apart, piece by piece, and merged in the order of memory at the end, so that the result does
not depend on who took what.

Threads of our own would take the cores from torch's, which wait for work in a loop. Torch's are a
team of an OpenMP library, and its ``GOMP_parallel`` has each of them call a function.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import carray  # type: ignore[attr-defined]

from tracking.statistics.kernels import accumulators as k
from tracking.statistics.kernels import numba_histogram as h
from tracking.statistics.kernels import numba_pieces as p
from tracking.statistics.kernels.numba_intrinsics import call, call_team, next_number, to_pointer

__all__ = ["SOURCE", "block_entry", "digest_of", "thread_entry"]

CHUNK = 8 * h.PIECE
"""Elements that a thread takes at a time: some 10 microseconds' work."""
MOST = 64
"""Threads that find accumulators; more of them would wait for memory."""
FEW = 4 * h.PIECE
"""With up to so many elements, the table of pairs takes longer to clear than it saves."""

# What threads are given, a job: int64 numbers and addresses, and where in it they are. AT_ALIVE is
# that of the row's marks; what is at AT_MOMENTS (pieces, p.MOMENTS), AT_COUNTS (MOST, k.INTS) and
# AT_MARKS (MOST, channels) is theirs to fill.
JOB = 14
AT_X, SIZE, CHANNELS, INNER, AT_ALIVE, EPS, THRESHOLD = range(7)
INFINITY, CHUNKS_TAKEN, THREADS, MOST_THREADS, AT_MOMENTS, AT_COUNTS, AT_MARKS = range(7, JOB)
WORD = 8
"""Bytes of one of them."""

_compiled = numba.njit(nogil=True)


def digest_of(folder: Path) -> str:
    """Of the files of a folder that are compiled together."""
    digest = hashlib.sha256()
    for file in [folder / "accumulators.py", *sorted(folder.glob("numba_*.py"))]:
        digest.update(file.read_bytes())
    return digest.hexdigest()


SOURCE = digest_of(Path(__file__).parent)
"""Of every file that is compiled together. Numba keeps compiled code on disk until the file that it
stands in changes; what is compiled into it from other files could change without its knowledge."""


def thread_entry(
    real: type[np.floating[Any]], whole: type[np.signedinteger[Any]], source: str
) -> Callable[[Any], None]:
    """What each thread calls with a job's address, to be compiled as a C function.

    It is made for a kind of float and the whole number of its size. What it closes over is part of
    the key under which Numba keeps it.
    """

    def work(at: Any) -> None:  # pragma: no cover - compiled
        _ = source
        job = carray(at, (JOB,), np.int64)
        x = to_pointer(job[AT_X])
        _do_part(carray(x, (job[SIZE],), real), carray(x, (job[SIZE],), whole), job)

    return work


def block_entry(source: str) -> Callable[..., None]:
    """What adds a block to a row, to be compiled as a C function.

    The block (outer, channels, inner) is at the address ``x``, the row's parts at ``ints``,
    ``floats`` and ``alive``; limits are ordinals; ``work`` is the address of ``thread_entry``'s
    function for the block's kind of float, and ``team`` that of ``GOMP_parallel``, or 0.
    """

    def reduce(  # pragma: no cover - compiled
        x: int,
        outer: int,
        channels: int,
        inner: int,
        ints: int,
        floats: int,
        alive: int,
        eps: int,
        threshold: int,
        infinity: int,
        work: int,
        team: int,
    ) -> None:
        _ = source
        n = outer * channels * inner
        most = min((n + CHUNK - 1) // CHUNK, MOST)
        moments = np.empty(((n + h.PIECE - 1) // h.PIECE, p.MOMENTS), np.float64)
        counts = np.empty((most, k.INTS), np.int64)
        marks = np.empty((most, channels), np.bool_)
        job = np.empty(JOB, np.int64)
        job[AT_X], job[SIZE], job[CHANNELS], job[INNER] = x, n, channels, inner
        job[AT_ALIVE] = alive
        job[EPS], job[THRESHOLD], job[INFINITY] = eps, threshold, infinity
        job[CHUNKS_TAKEN], job[THREADS], job[MOST_THREADS] = 0, 0, most
        job[AT_MOMENTS], job[AT_COUNTS] = moments.ctypes.data, counts.ctypes.data
        job[AT_MARKS] = marks.ctypes.data
        if team and most > 1:
            call_team(team, work, job.ctypes.data)
        else:
            call(work, job.ctypes.data)
        threads = min(job[THREADS], most)
        row = carray(to_pointer(ints), (k.INTS,), np.int64)
        living = carray(to_pointer(alive), (channels,), np.bool_)
        for thread in range(threads):
            _add_to(row, counts[thread])
            _mark(living, marks[thread])
        _merge_moments(moments, row, carray(to_pointer(floats), (k.FLOATS,), np.float64))

    return reduce


@_compiled
def _do_part(x: Any, bits: Any, job: Any) -> None:  # pragma: no cover - compiled
    """What one thread does of a job, as long as there are chunks."""
    n, channels, kind = job[SIZE], job[CHANNELS], bits.dtype.type
    thread = next_number(job.ctypes.data + WORD * THREADS)
    if thread >= job[MOST_THREADS]:
        return
    limits = kind(job[EPS]), kind(job[THRESHOLD]), kind(job[INFINITY])
    moments = carray(
        to_pointer(job[AT_MOMENTS]), ((n + h.PIECE - 1) // h.PIECE, p.MOMENTS), np.float64
    )
    ints = carray(to_pointer(job[AT_COUNTS] + thread * WORD * k.INTS), (k.INTS,), np.int64)
    alive = carray(to_pointer(job[AT_MARKS] + thread * channels), (channels,), np.bool_)
    for i in range(ints.size):
        ints[i] = 0
    before = carray(to_pointer(job[AT_ALIVE]), (channels,), np.bool_)
    for c in range(channels):
        alive[c] = before[c]
    ends, places = np.empty(2, bits.dtype), np.empty(h.PIECE // 2, np.uint32)
    pairs = np.zeros((2, 1 if n <= FEW else k.HIST_BINS * k.HIST_BINS), np.uint32)
    span = np.empty(2, np.int64)
    span[0], span[1] = k.HIST_BINS, -1
    while True:
        first = next_number(job.ctypes.data + WORD * CHUNKS_TAKEN) * CHUNK
        if first >= n:
            break
        last = min(first + CHUNK, n)
        for start in range(first, last, h.PIECE):
            stop = min(start + h.PIECE, last)
            piece = moments[start // h.PIECE]
            values, piece_bits = x[start:stop], bits[start:stop]
            p.add_piece(values, piece_bits, ints, piece, limits, ends, places, pairs, span)
        p.mark_living(x, first, last, job[INNER], alive)
    if n > FEW:
        h.add_pairs(pairs, span, ints)


# In loops: operations on arrays take two seconds more to compile.
@_compiled
def _add_to(row: Any, more: Any) -> None:  # pragma: no cover - compiled
    for i in range(row.size):
        row[i] += more[i]


@_compiled
def _mark(living: Any, more: Any) -> None:  # pragma: no cover - compiled
    for c in range(living.size):
        living[c] |= more[c]


@_compiled
def _merge_moments(moments: Any, ints: Any, floats: Any) -> None:  # pragma: no cover - compiled
    """Merge those of pieces (pieces, p.MOMENTS), in their order, into a row."""
    before = ints[k.FINITE]
    for i in range(moments.shape[0]):
        piece = moments[i]
        n = np.int64(piece[p.FINITE])
        if not n:
            continue
        new = p.merge(
            before, n / (before + n), floats[k.MEAN], floats[k.REST], piece[k.MEAN], piece[k.REST]
        )
        floats[k.MEAN], floats[k.REST] = new[0], new[1]
        floats[k.SQUARES] += piece[k.SQUARES] + new[2]
        floats[k.MIN] = min(floats[k.MIN], piece[k.MIN])
        floats[k.MAX] = max(floats[k.MAX], piece[k.MAX])
        before += n
    ints[k.FINITE] = before
