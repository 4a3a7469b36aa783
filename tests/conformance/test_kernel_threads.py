"""The CPU's kernel among torch's threads: however many there are, the result has the same bits."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conformance.kernels import as_row, empty_row
from tests.tracking_tests.reference import assert_stats
from tracking.statistics.kernels import numba_kernel
from tracking.statistics.kernels import numba_reduction as r
from tracking.statistics.kernels.numba_kernel import NumbaKernel

__all__: list[str] = []

Row = tuple[Tensor, Tensor, Tensor]
CHUNK = r.CHUNK


@pytest.fixture(autouse=True)
def as_many_threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def some_output(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """As after a ReLU, with a dead channel, one that lives at the very end only, and NaN."""
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=generator, dtype=torch.float64).mul_(3).relu_()
    if shape[1] > 2:
        x[:, 1:3] = 0
        x[-1, 2].view(-1)[-1] = 1e-30
    x[shape[0] // 2, 0].view(-1)[0] = torch.nan
    return x.to(dtype)


OUTPUTS = {
    "channels_last": some_output(400, 17, 4, 4).to(memory_format=torch.channels_last),
    "contiguous": some_output(300, 17, 4, 5),
    "rows wider than a chunk": some_output(3, CHUNK + 5),
    "channels wider than a chunk": some_output(2, 3, CHUNK + 5),
    "one channel": some_output(3, 1, CHUNK),
    "float64": some_output(400, 17, 16, dtype=torch.float64),
    "bfloat16": some_output(400, 17, 16, dtype=torch.bfloat16),
    "one chunk": some_output(1, 8, CHUNK // 8),
    "one chunk and some": some_output(1, 8, CHUNK // 8 + 1),
}
every_output = pytest.mark.parametrize("name", OUTPUTS)


def row_of(*outputs: Tensor) -> Row:
    ints, floats = empty_row()
    alive = torch.zeros(outputs[0].shape[1], dtype=torch.bool)
    kernel = NumbaKernel(0.05, 1.0)
    for x in outputs:
        kernel(x, ints.data_ptr(), floats.data_ptr(), alive.data_ptr())
    return ints, floats, alive


def assert_same_bits(one: Row, other: Row) -> None:
    for a, b in zip(one, other, strict=True):
        assert a.numpy().tobytes() == b.numpy().tobytes()


def test_torch_s_threads_are_found() -> None:
    if "ATen parallel backend: OpenMP" not in torch.__config__.parallel_info():
        pytest.skip("this torch has threads of another kind")
    assert numba_kernel._team()


@every_output
def test_the_number_of_threads_changes_no_bit(name: str) -> None:
    x = OUTPUTS[name]
    torch.set_num_threads(1)
    alone = row_of(x, x * 2)
    for threads in (2, 5):
        torch.set_num_threads(threads)
        assert_same_bits(row_of(x, x * 2), alone)


@every_output
def test_several_threads_give_what_numpy_gives(name: str) -> None:
    x = OUTPUTS[name]
    torch.set_num_threads(4)
    ints, floats, alive = row_of(x)
    assert_stats(as_row(ints, floats, {x.shape[1]: alive}), [x])


def test_more_threads_than_have_room_leave_the_work_to_the_others() -> None:
    x = some_output(r.MOST + 6, 4, CHUNK // 4)
    torch.set_num_threads(1)
    alone = row_of(x)
    torch.set_num_threads(r.MOST + 6)
    assert_same_bits(row_of(x), alone)


def test_without_a_team_one_thread_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    x = OUTPUTS["contiguous"]
    torch.set_num_threads(3)
    together = row_of(x)
    code = numba_kernel._compiled(np.float32)
    monkeypatch.setattr(
        numba_kernel, "_compiled", lambda kind: replace(code, team=(code.team[0], 0))
    )
    assert_same_bits(row_of(x), together)


def test_the_team_is_asked_for_what_has_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    work = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    def team(function: int, job: int, threads: int, flags: int) -> None:
        asked.append((threads, flags))
        for _ in range(3):
            work(function)(job)

    code = numba_kernel._compiled(np.float32)
    address = ctypes.cast(team, ctypes.c_void_p).value
    assert address is not None
    expected = {name: row_of(OUTPUTS[name]) for name in ("one chunk", "one chunk and some")}
    with monkeypatch.context() as patched:
        faked = replace(code, team=(code.team[0], address))
        patched.setattr(numba_kernel, "_compiled", lambda kind: faked)
        assert_same_bits(row_of(OUTPUTS["one chunk"]), expected["one chunk"])
        assert not asked
        assert_same_bits(row_of(OUTPUTS["one chunk and some"]), expected["one chunk and some"])
    assert asked == [(0, 0)]


def test_callers_in_several_threads_do_not_disturb_each_other() -> None:
    outputs = [some_output(100 + i, 17, 40) for i in range(4)]
    expected = [row_of(x) for x in outputs]
    found: dict[int, list[Row]] = {}

    def work(index: int) -> None:
        found[index] = [row_of(outputs[index]) for _ in range(50)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for i, row in enumerate(expected):
        assert len(found[i]) == 50
        for one in found[i]:
            assert_same_bits(one, row)


def test_numba_s_key_depends_on_every_file_that_is_compiled(tmp_path: Path) -> None:
    folder = Path(r.__file__).parent
    for file in folder.glob("*.py"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert r.digest_of(tmp_path) == r.SOURCE
    compiled = ("accumulators", "numba_pieces", "numba_intrinsics", "numba_reduction")
    for name in compiled:
        kept = (tmp_path / f"{name}.py").read_bytes()
        (tmp_path / f"{name}.py").write_bytes(kept + b"#")
        assert r.digest_of(tmp_path) != r.SOURCE
        (tmp_path / f"{name}.py").write_bytes(kept)
    # Its key has the contents of closures in it, beside the date of the file itself.
    for function in (
        r.thread_entry(np.float32, np.int32, r.SOURCE),
        r.block_entry(r.SOURCE),
    ):
        assert function.__closure__ is not None
        assert r.SOURCE in [cell.cell_contents for cell in function.__closure__]
