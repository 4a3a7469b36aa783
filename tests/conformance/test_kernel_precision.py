"""What every kernel promises of its numbers: nothing is lost to cancellation, rounding, threads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conformance.kernels import KERNELS, every_dtype, every_kernel, reduced
from tests.tracking_tests.reference import assert_same, assert_stats

__all__: list[str] = []


@every_kernel
def test_number_of_threads_changes_nothing_that_counts(name: str) -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(3, 2, (20, 8, 14, 14))).float()
    before = torch.get_num_threads()
    rows = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            rows.append(reduced(name, [x[:15], x[15:]]))
    finally:
        torch.set_num_threads(before)
    for row in rows:
        assert_stats(row, [x])
        assert_same(row, rows[0] | {"scale": 0.0})


def exact_std(parts: Sequence[Tensor]) -> float:
    """By rational arithmetic, which nothing cancels in."""
    values = [Fraction(x) for part in parts for x in part.double().flatten().tolist()]
    mean = sum(values) / len(values)
    return math.sqrt(sum((x - mean) ** 2 for x in values) / (len(values) - 1))


def far_from_zero(dtype: torch.dtype, offset: float, noise: float) -> Tensor:
    rng = np.random.default_rng(1)
    return torch.from_numpy(offset + noise * rng.normal(size=25)).to(dtype)


@every_kernel
@pytest.mark.parametrize("parts", [1, 2, 7, 25])
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
    row = reduced(name, [torch.full((50, 1000), value), torch.full((7,), value)])
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
