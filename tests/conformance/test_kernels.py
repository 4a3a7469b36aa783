"""What every kernel promises, on any device: the contract's definitions, exactly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.tracking_tests.reference import (
    DTYPES,
    EDGES,
    any_tensor,
    assert_same,
    assert_stats,
    neighbours,
    statistics,
)
from tracking import kernels as k
from tracking.kernels import NumbaKernel, Reduction, TorchKernel, kernel_for

# The accelerator's kernel takes its input in chunks; here they are so small that every tensor
# with more than a few elements has several.
KERNELS = {"numba": NumbaKernel, "torch": TorchKernel, "torch, chunked": TorchKernel}
every_kernel = pytest.mark.parametrize("name", KERNELS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@contextmanager
def kernel(name: str, eps: float = 0.05, threshold: float = 1.0) -> Iterator[Reduction]:
    chunk = 5 if name == "torch, chunked" else k.CHUNK
    with mock.patch.object(k, "CHUNK", chunk):
        yield KERNELS[name](eps, threshold)


def empty_row(device: str = "cpu") -> tuple[Tensor, Tensor]:
    ints = torch.zeros(k.INTS, dtype=torch.int64, device=device)
    floats = torch.zeros(k.FLOATS, dtype=torch.float64, device=device)
    floats[k.MIN], floats[k.MAX] = math.inf, -math.inf
    return ints, floats


def reduced(name: str, outputs: Sequence[Tensor], **thresholds: float) -> dict[str, Any]:
    """Statistics of the outputs of one layer, merged by a kernel into one row."""
    ints, floats = empty_row()
    alive: dict[int, Tensor] = {}
    with kernel(name, **thresholds) as reduce:
        for x in outputs:
            width = x.shape[1] if x.ndim > 1 else None
            if width is not None:
                alive.setdefault(width, torch.zeros(width, dtype=torch.bool))
            reduce(x, ints, floats, None if width is None else alive[width])
    return as_row(ints, floats, alive)


def as_row(ints: Tensor, floats: Tensor, alive: dict[int, Tensor]) -> dict[str, Any]:
    n = int(ints[k.FINITE])
    living = torch.cat([*alive.values(), torch.zeros(0, dtype=torch.bool)])
    std = math.sqrt(floats[k.SQUARES] / (n - 1)) if n > 1 else 0.0
    return {
        "count": int(ints[k.COUNT]),
        "mean": float(floats[k.MEAN] + floats[k.REST]) if n else None,
        "std": std if n else None,
        "min": float(floats[k.MIN]) if n else None,
        "max": float(floats[k.MAX]) if n else None,
        "near_zero": int(ints[k.NEAR]) / n if n else None,
        "above": int(ints[k.ABOVE]),
        "dead_channels": 1 - living.double().mean().item() if len(living) else None,
        "nonfinite": int(ints[k.COUNT]) - n,
        "hist": ints[k.HIST :].tolist(),
    }


@every_kernel
@settings(max_examples=60)
@given(x=any_tensor())
def test_any_tensor_gives_what_numpy_gives(name: str, x: Tensor) -> None:
    assert_stats(reduced(name, [x]), [x])


@every_kernel
@settings(max_examples=40)
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
@settings(max_examples=40)
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


@every_kernel
def test_number_of_threads_changes_nothing_that_counts(name: str) -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(3, 2, (64, 8, 14, 14))).float()
    before = torch.get_num_threads()
    rows = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            rows.append(reduced(name, [x[:50], x[50:]]))
    finally:
        torch.set_num_threads(before)
    for row in rows:
        assert_stats(row, [x])
        assert_same(row, rows[0] | {"scale": 0.0})


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
    with kernel(name) as reduce:
        reduce(x, *empty_row(), living)
    assert living.tolist() == [True, False, False, False, True, False]
    with kernel(name) as reduce:  # later tensors never kill
        reduce(-torch.ones(1, 6, 3), *empty_row(), living)
    assert living.tolist() == [True, False, False, False, True, False]


def exact_std(parts: Sequence[Tensor]) -> float:
    """By rational arithmetic, which nothing cancels in."""
    values = [Fraction(x) for part in parts for x in part.double().flatten().tolist()]
    mean = sum(values) / len(values)
    return math.sqrt(sum((x - mean) ** 2 for x in values) / (len(values) - 1))


def far_from_zero(dtype: torch.dtype, offset: float, noise: float) -> Tensor:
    rng = np.random.default_rng(1)
    return torch.from_numpy(offset + noise * rng.normal(size=400)).to(dtype)


@every_kernel
@pytest.mark.parametrize("parts", [1, 2, 7, 400])
@pytest.mark.parametrize(
    ("dtype", "offset", "noise"),
    [
        (torch.float32, 1e6, 0.1),
        (torch.float64, 1e6, 1e-3),
        (torch.float64, -1e9, 1e-4),
        (torch.float16, 2048, 2),
        (torch.bfloat16, 256, 1),
    ],
)
def test_small_deviations_from_a_large_mean_survive(
    name: str, parts: int, dtype: torch.dtype, offset: float, noise: float
) -> None:
    xs = list(far_from_zero(dtype, offset, noise).chunk(parts))
    assert reduced(name, xs)["std"] == pytest.approx(exact_std(xs), rel=1e-9)


@every_kernel
def test_parts_with_means_far_apart_merge_exactly(name: str) -> None:
    # Fails where a share of the elements is computed in float32.
    xs = [torch.full((3,), 1 / 3), torch.full((7,), 1e4), torch.full((1,), -5e3)]
    assert_stats(reduced(name, xs), xs)


@every_kernel
@pytest.mark.parametrize("value", [0.1, 1e6, 1 / 3, -7e30])
def test_a_constant_has_no_deviation(name: str, value: float) -> None:
    row = reduced(name, [torch.full((50_000,), value), torch.full((3, 7), value)])
    assert row["mean"] == float(np.float32(value))
    assert row["std"] == 0


@every_kernel
def test_sums_beyond_float64_give_no_false_number(name: str) -> None:
    x = torch.tensor([1e308, 1e308, -2.0], dtype=torch.float64)
    row = reduced(name, [x])
    assert (row["count"], row["nonfinite"], row["above"]) == (3, 0, 2)
    assert (row["min"], row["max"]) == (-2, 1e308)
    assert (row["hist"][-1], sum(row["hist"])) == (2, 3)
    assert not math.isfinite(row["mean"])
    assert not math.isfinite(row["std"])


@every_kernel
def test_a_million_elements(name: str) -> None:
    x = torch.from_numpy(np.random.default_rng(2).normal(0.1, 3, (100, 10, 1000))).bfloat16()
    assert_stats(reduced(name, [x]), [x])


@every_kernel
def test_input_and_other_rows_stay_as_they_are(name: str) -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    copy = x.clone()
    ints, floats = (torch.stack([t] * 3) for t in empty_row())
    with kernel(name) as reduce:
        reduce(x, ints[1], floats[1], torch.zeros(3, dtype=torch.bool))
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
    with kernel("torch, chunked") as reduce:
        reduce(x, *empty_row("meta"), living)
    with pytest.raises(RuntimeError):
        x.sum().item()


@every_dtype
def test_default_dtype_has_no_influence(dtype: torch.dtype) -> None:
    x = torch.from_numpy(np.random.default_rng(3).normal(5, 2, (9, 4))).float()
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        rows = [reduced(name, [x[:4], x[4:]]) for name in KERNELS]
    finally:
        torch.set_default_dtype(before)
    for row in rows:
        assert_stats(row, [x])


def test_the_device_decides_the_kernel() -> None:
    assert isinstance(kernel_for(torch.device("cpu"), 0.1, 2.0), NumbaKernel)
    for device in ("cuda:1", "xpu", "meta"):
        chosen = kernel_for(torch.device(device), 0.1, 2.0)
        assert isinstance(chosen, TorchKernel)
        assert (chosen.near_zero_eps, chosen.above_threshold) == (0.1, 2.0)


def test_edges_are_those_of_the_contract() -> None:
    assert k.HIST_BINS == 82
    assert k.HIST_EDGES.tolist() == [x / 4 for x in range(-40, 41)]
