"""The sums behind norms, against NumPy, for the CPU's path and the accelerators'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.tracking_tests.reference import DTYPES, any_tensor
from tracking.statistics import norms
from tracking.statistics.norms import (
    BLOCK,
    gradient_sums,
    has_elements_to_read,
    torch_gradient_sums,
    torch_update_sums,
    update_sums,
)

__all__: list[str] = []

Sums = Callable[..., Tensor]
of_gradients = pytest.mark.parametrize("sums", [gradient_sums, torch_gradient_sums])
of_updates = pytest.mark.parametrize("sums", [update_sums, torch_update_sums])


def close(expected: list[float]) -> Any:
    # The squares of what is smaller than 1e-154 are beyond float64.
    return pytest.approx(expected, rel=1e-12, abs=1e-300)


def gradient_reference(x: Tensor) -> list[float]:
    flat = x.double().numpy().ravel()
    finite = np.abs(flat[np.isfinite(flat)])
    zeros = (flat == 0).sum()
    return [finite.size, flat.size - finite.size, zeros, finite.sum(), np.square(finite).sum()]


def update_reference(before: Tensor, after: Tensor) -> list[float]:
    old, new = before.double().numpy().ravel(), after.double().numpy().ravel()
    with np.errstate(invalid="ignore"):
        changes = new - old
    changes, weights = changes[np.isfinite(changes)], old[np.isfinite(old)]
    counts = [changes.size, old.size - changes.size]
    return [*counts, np.square(changes).sum(), weights.size, np.square(weights).sum()]


@settings(max_examples=60)
@given(any_tensor())
def test_sums_of_any_gradient(x: Tensor) -> None:
    for sums in (gradient_sums, torch_gradient_sums):
        found = sums(x)
        assert (found.dtype, found.shape) == (torch.float64, (5,))
        assert found.tolist() == close(gradient_reference(x))


@settings(max_examples=60)
@given(any_tensor(), st.floats(-2, 2, width=16))
def test_sums_of_any_update(before: Tensor, factor: float) -> None:
    # Of another layout than the weights: elements must meet their own.
    after = (before * factor + 1).contiguous()
    for sums in (update_sums, torch_update_sums):
        for old, new in ((before, after), (after, before)):
            assert sums(old, new).tolist() == close(update_reference(old, new))


@of_gradients
@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
def test_block_borders(sums: Sums, size: int) -> None:
    x = torch.from_numpy(np.random.default_rng(size).normal(size=size)).float()
    x[::7] = 0
    assert sums(x).tolist() == close(gradient_reference(x))
    x[size // 2 :: BLOCK] = torch.nan
    x[size // 3 :: BLOCK] = -torch.inf
    assert sums(x).tolist() == close(gradient_reference(x))


@of_updates
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [0, BLOCK - 1, BLOCK, 2 * BLOCK + 2])
def test_weights_that_are_lost_or_come_back(sums: Sums, bad: float, place: int) -> None:
    whole = torch.from_numpy(np.random.default_rng(1).normal(size=2 * BLOCK + 3))
    broken = whole * 1.5
    broken[place] = bad
    for pair in ((whole, broken), (broken, whole), (broken, broken)):
        found = sums(*pair).tolist()
        assert found == close(update_reference(*pair))
        assert found[norms.NONFINITE] == 1
    assert sums(broken, whole)[norms.WEIGHTS] == len(whole) - 1


def test_accelerators_go_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.from_numpy(np.random.default_rng(2).normal(size=(5, 3, 4))).bfloat16()
    monkeypatch.setattr(norms, "CHUNK", 7)
    assert torch_gradient_sums(x).tolist() == close(gradient_reference(x))
    assert torch_update_sums(x, x * 2).tolist() == close(update_reference(x, x * 2))


@of_gradients
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_that_the_dtype_could_not_hold(sums: Sums, dtype: torch.dtype) -> None:
    x = torch.full((300, 300), 60000.0).to(dtype)
    value, n = float(x[0, 0]), x.numel()
    assert sums(x).tolist() == close([n, 0, 0, n * value, n * value**2])


@of_updates
def test_a_change_far_below_the_weight_is_not_lost(sums: Sums) -> None:
    before = torch.full((1000,), 1.0)
    after = before.clone()
    after[0] = torch.tensor(1.0).nextafter(torch.tensor(2.0))
    assert sums(before, after)[norms.UPDATE_SQUARES].sqrt() == 2.0**-23


def test_dense_layouts_are_read_without_a_copy() -> None:
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    [flat] = norms._flattened(x)
    assert flat.data_ptr() == x.data_ptr()
    assert flat.is_contiguous()


def test_inputs_are_left_alone() -> None:
    x = torch.tensor([1.0, -0.0, torch.nan, -torch.inf])
    before = x.clone()
    gradient_sums(x), torch_gradient_sums(x), update_sums(x, x), torch_update_sums(x, x)
    assert torch.equal(x.view(torch.int32), before.view(torch.int32))


def test_the_accelerators_path_never_asks_the_device_for_a_value() -> None:
    x = torch.empty(2, 3, 4, device="meta")  # has no values to give: asking raises
    assert torch_gradient_sums(x).device.type == "meta"
    assert torch_update_sums(x, x).device.type == "meta"


def test_what_has_plain_elements() -> None:
    assert has_elements_to_read(torch.zeros(0))
    for x in (
        torch.zeros(2, device="meta"),
        torch.eye(2).to_sparse(),
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros(2, dtype=torch.int64),
    ):
        assert not has_elements_to_read(x)
