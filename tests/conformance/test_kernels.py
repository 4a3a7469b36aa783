"""What every kernel promises, on any device: the contract's definitions, exactly."""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.conformance.kernels import (
    KERNELS,
    empty_row,
    every_dtype,
    every_kernel,
    kernel,
    reduced,
)
from tests.tracking_tests.reference import (
    EDGES,
    any_tensor,
    assert_same,
    assert_stats,
    neighbours,
    statistics,
)
from tracking.statistics.kernels import accumulators as k
from tracking.statistics.kernels import kernel_for
from tracking.statistics.kernels.numba_kernel import NumbaKernel
from tracking.statistics.kernels.torch_kernel import TorchKernel

__all__: list[str] = []


@every_kernel
@settings(max_examples=40)
@given(x=any_tensor())
def test_any_tensor_gives_what_numpy_gives(name: str, x: Tensor) -> None:
    assert_stats(reduced(name, [x]), [x])


@every_kernel
@settings(max_examples=25)
@given(xs=st.lists(any_tensor(), min_size=2, max_size=4))
def test_several_tensors_merge_as_if_they_were_one(name: str, xs: list[Tensor]) -> None:
    assert_stats(reduced(name, xs), xs)


@settings(max_examples=40)
@given(x=any_tensor(), eps=st.floats(0, 3), threshold=st.floats(-20, 20))
def test_kernels_agree_for_any_thresholds(x: Tensor, eps: float, threshold: float) -> None:
    expected = statistics([x], eps, threshold)
    for name in KERNELS:
        assert_same(reduced(name, [x], eps=eps, threshold=threshold), expected)


@every_kernel
@settings(max_examples=25)
@given(x=any_tensor(min_dims=1, min_side=1), data=st.data())
def test_the_batch_may_be_split_and_its_order_changed(
    name: str, x: Tensor, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(x)), max_size=4)))
    order = torch.tensor(data.draw(st.permutations(range(len(x)))))
    parts = [x[a:b] for a, b in itertools.pairwise([0, *cuts, len(x)])]
    whole = statistics([x])
    assert_same(reduced(name, parts), whole)
    assert_same(reduced(name, [x[order]]), whole)


def bin_of(x: float) -> int:
    """The bin by exact arithmetic."""
    return min(max(math.floor(Fraction(x) * 4) + 41, 0), 81)


@every_kernel
@every_dtype
def test_values_on_and_beside_the_bin_edges(name: str, dtype: torch.dtype) -> None:
    values = [x for edge in EDGES for x in neighbours(edge, dtype)]
    expected = np.bincount([bin_of(x) for x in values], minlength=82)
    assert reduced(name, [torch.tensor(values, dtype=dtype)])["hist"] == expected.tolist()


@every_kernel
@every_dtype
def test_each_value_lies_in_its_own_bin(name: str, dtype: torch.dtype) -> None:
    for value in (-10.0, 10.0, 0.0, -0.25):
        for x in neighbours(value, dtype):
            hist = reduced(name, [torch.tensor([x], dtype=dtype)])["hist"]
            assert hist.index(1) == bin_of(x), x
            assert sum(hist) == 1


@every_kernel
@pytest.mark.parametrize("value", [2.4e18, 9.3e18, 1e19, 1e30, 3e38])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_huge_values_lie_in_the_outer_bins(name: str, value: float, dtype: torch.dtype) -> None:
    hist = reduced(name, [torch.tensor([value, -value, -value], dtype=dtype)])["hist"]
    assert (hist[0], hist[-1], sum(hist)) == (2, 1, 3)


@every_kernel
def test_comparisons_are_made_in_float64(name: str) -> None:
    # The float32 number next to 0.05 is larger than 0.05, its neighbour is smaller.
    below, nearest = np.nextafter(np.float32(0.05), np.float32(0)), np.float32(0.05)
    assert float(below) < 0.05 < float(nearest)
    single = torch.tensor([below, nearest, -nearest])
    assert reduced(name, [single])["near_zero"] == pytest.approx(1 / 3)
    assert reduced(name, [torch.tensor([0.05], dtype=torch.float64)])["near_zero"] == 1
    # 0.1 is above float32(0.1) - 1 ulp, and not above itself.
    tenth = float(np.float32(0.1))
    assert reduced(name, [torch.tensor([tenth])], threshold=0.1)["above"] == 1
    assert reduced(name, [torch.tensor([tenth])], threshold=tenth)["above"] == 0


@every_kernel
@every_dtype
def test_nan_and_infinities_are_counted_and_kept_out_of_moments(
    name: str, dtype: torch.dtype
) -> None:
    x = torch.tensor([1.5, math.nan, math.inf, -math.inf, -0.5, math.inf], dtype=dtype)
    row = reduced(name, [x])
    assert (row["count"], row["nonfinite"], row["above"]) == (6, 4, 3)
    assert (row["mean"], row["min"], row["max"]) == (0.5, -0.5, 1.5)
    assert row["std"] == pytest.approx(math.sqrt(2))
    assert (row["hist"][0], row["hist"][-1], sum(row["hist"])) == (1, 2, 5)


@every_kernel
def test_without_finite_elements_there_are_no_moments(name: str) -> None:
    row = reduced(name, [torch.tensor([[math.nan, math.inf]])])
    nothing = {name: row[name] for name in ("mean", "std", "min", "max", "near_zero")}
    assert set(nothing.values()) == {None}
    assert row["dead_channels"] == 0.5  # infinity is greater than zero, NaN is not
    later = reduced(name, [torch.tensor([[math.nan, math.inf]]), torch.tensor([[2.0, 4.0]])])
    assert (later["mean"], later["std"]) == (3, pytest.approx(math.sqrt(2)))


@every_kernel
@pytest.mark.parametrize("shape", [(0,), (0, 3), (0, 3, 2, 2), (2, 0), (2, 3, 0)])
def test_empty_tensors_change_nothing(name: str, shape: tuple[int, ...]) -> None:
    full = torch.arange(12.0).reshape(4, 3)
    expected = reduced(name, [full])
    empty = torch.zeros(shape)
    assert reduced(name, [full, empty, full[:0]])["hist"] == expected["hist"]
    assert reduced(name, [empty, full])["mean"] == expected["mean"]
    assert reduced(name, [empty])["count"] == 0


@every_kernel
def test_a_channel_lives_by_any_element_above_zero(name: str) -> None:
    x = torch.zeros(2, 6, 3)
    x[0, 0, 1] = 1e-45  # the smallest float32
    x[:, 1] = -1
    x[:, 2] = -0.0
    x[:, 3] = math.nan
    x[1, 4, 2] = math.inf
    living = torch.zeros(6, dtype=torch.bool)
    reduce = kernel(name)
    reduce(x, *empty_row(), living)
    assert living.tolist() == [True, False, False, False, True, False]
    reduce(-torch.ones(1, 6, 3), *empty_row(), living)  # later tensors never kill
    assert living.tolist() == [True, False, False, False, True, False]


@every_kernel
def test_input_and_other_rows_stay_as_they_are(name: str) -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    copy = x.clone()
    ints, floats = (torch.stack([t] * 3) for t in empty_row())
    kernel(name)(x, ints[1], floats[1], torch.zeros(3, dtype=torch.bool))
    assert torch.equal(x, copy)
    assert ints[1].any()
    for row in (0, 2):
        assert not ints[row].any()
        assert floats[row].tolist() == empty_row()[1].tolist()


@every_kernel
def test_unusual_memory_is_read_rightly(name: str) -> None:
    views: list[Callable[[Tensor], Tensor]] = [
        lambda x: torch.complex(x, x).conj().imag,  # negated when it is read
        lambda x: x.T,
        lambda x: x[::2, 1:],
        lambda x: x[:1].expand(5, -1),
        lambda x: x.to(torch.float8_e4m3fn),
        lambda x: x.requires_grad_(),
    ]
    for view in views:
        x = view(torch.arange(-6.0, 6.0).reshape(3, 4))
        with torch.no_grad():
            assert_stats(reduced(name, [x]), [x])


def test_accelerator_kernel_never_asks_for_a_value() -> None:
    # A meta tensor has no values: whatever would wait for the device raises.
    x = torch.empty(7, 3, 2, device="meta")
    living = torch.zeros(3, dtype=torch.bool, device="meta")
    kernel("torch, chunked")(x, *empty_row("meta"), living)
    with pytest.raises(RuntimeError):
        x.sum().item()


def test_where_no_channels_are_asked_for_none_are_marked() -> None:
    kind, (ints, floats) = NumbaKernel(0.05, 1.0), empty_row()
    marks = (ctypes.c_bool * 9)()
    kind._nobody = ctypes.c_bool.from_buffer(marks)
    kind(torch.ones(2, 9, 3), ints.data_ptr(), floats.data_ptr(), None)
    assert ints[k.COUNT] == 54
    assert not any(marks[1:])


def test_a_tensor_without_memory_is_refused_and_not_read() -> None:
    nothing = torch._efficientzerotensor((2, 3))  # type: ignore[attr-defined]
    assert nothing.data_ptr() == 0
    with pytest.raises(TypeError, match="no memory of its own"):
        kernel("numba")(nothing, *empty_row(), None)


def test_the_device_decides_the_kernel() -> None:
    assert isinstance(kernel_for(torch.device("cpu"), 0.1, 2.0), NumbaKernel)
    for device in ("cuda:1", "xpu", "meta"):
        chosen = kernel_for(torch.device(device), 0.1, 2.0)
        assert isinstance(chosen, TorchKernel)
        assert (chosen.near_zero_eps, chosen.above_threshold) == (0.1, 2.0)


def test_where_triton_does_not_work_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    nowhere = torch.device("cuda:77")
    for _ in range(2):
        assert isinstance(kernel_for(nowhere, 0.1, 2.0), TorchKernel)
    [line] = caplog.messages
    assert line.startswith("Triton does not work on cuda:77 (")
    assert "\n" not in line


def test_edges_are_those_of_the_contract() -> None:
    assert k.HIST_BINS == 82
    assert k.HIST_EDGES.tolist() == [x / 4 for x in range(-40, 41)]


@every_kernel
@pytest.mark.parametrize("size", [2047, 2048, 2049, 8191, 8193, 20_001])
@pytest.mark.parametrize("spoilt", [[], [0], [2048, 2049, 5000]], ids=str)
def test_pieces_of_a_large_tensor_make_a_whole(name: str, size: int, spoilt: list[int]) -> None:
    x = torch.from_numpy(np.random.default_rng(size).normal(0.3, 4, size)).float()
    x[[i for i in spoilt if i < size]] = torch.tensor(math.nan)
    x[-1] = math.inf if spoilt else 60.0
    for layout in (x, x.double(), x[None], x[:, None]):
        assert_stats(reduced(name, [layout]), [layout])
