"""The contract's definitions in plain NumPy, tensors to try them on, and comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

__all__ = [
    "DTYPES",
    "EDGES",
    "any_tensor",
    "assert_same",
    "assert_stats",
    "neighbours",
    "statistics",
]

EDGES = np.linspace(-10, 10, 81)
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
ENDS = (-np.inf, np.inf)
WHOLE = ("count", "above", "nonfinite")


def statistics(
    outputs: Sequence[Tensor], near_zero_eps: float = 0.05, above_threshold: float = 1.0
) -> dict[str, Any]:
    """What the contract defines, for the outputs of one layer in one step."""
    arrays = [x.detach().double().numpy() for x in outputs]
    flat = np.concatenate([a.ravel() for a in arrays])
    finite = flat[np.isfinite(flat)]
    hist = np.bincount(np.searchsorted(EDGES, flat[~np.isnan(flat)], side="right"), minlength=82)
    n = finite.size
    return {
        "count": flat.size,
        "mean": finite.mean() if n else None,
        "std": _std(finite) if n else None,
        "min": finite.min() if n else None,
        "max": finite.max() if n else None,
        "near_zero": np.mean(np.abs(finite) <= near_zero_eps) if n else None,
        "above": int((flat > above_threshold).sum()),
        "dead_channels": _dead_channels(arrays),
        "nonfinite": flat.size - n,
        "hist": hist.tolist(),
        "scale": np.abs(finite).max(initial=0.0),
    }


def _std(finite: npt.NDArray[np.float64]) -> float:
    deviations = finite - finite.mean()
    deviations -= deviations.mean()
    return float(np.sqrt(np.square(deviations).sum() / (finite.size - 1))) if len(finite) > 1 else 0


def _dead_channels(arrays: Sequence[npt.NDArray[np.float64]]) -> float | None:
    alive: dict[int, npt.NDArray[np.bool_]] = {}
    for a in arrays:
        if a.ndim >= 2:
            positive = (np.moveaxis(a, 1, 0) > 0).reshape(a.shape[1], a.size // (a.shape[1] or 1))
            alive[a.shape[1]] = alive.get(a.shape[1], np.False_) | positive.any(axis=1)
    channels = np.concatenate([*alive.values(), np.zeros(0, bool)])
    return float(1 - channels.mean()) if len(channels) else None


def assert_stats(row: Mapping[str, Any], outputs: Sequence[Tensor], **thresholds: float) -> None:
    """Assert that a row (of a table, or a record as a mapping) is what NumPy finds."""
    assert_same(row, statistics(outputs, **thresholds))


def assert_same(row: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Whole numbers and shares exactly, mean and deviation to 1e-9 of their own size."""
    assert {name: row[name] for name in WHOLE} == {name: expected[name] for name in WHOLE}
    assert list(row["hist"]) == list(expected["hist"])
    for name in ("min", "max"):
        assert row[name] == expected[name], name
    for name in ("near_zero", "dead_channels"):
        assert row[name] == _approx(expected[name], 1e-15), name
    # What cancels in a sum of float64 numbers is lost to NumPy as well.
    for name in ("mean", "std"):
        # Below 1e-300 float64 has hardly any digits left.
        assert row[name] == _approx(expected[name], 1e-15 * expected["scale"] + 1e-300), name


def _approx(value: float | None, absolute: float) -> Any:
    return value if value is None else pytest.approx(value, rel=1e-9, abs=absolute)


def neighbours(value: float, dtype: torch.dtype) -> tuple[float, float, float]:
    """The number of ``dtype`` next to a value, with the numbers just below and above it."""
    at = torch.tensor(value, dtype=dtype)
    if dtype is torch.float16:  # for which torch has no nextafter
        below, above = (np.nextafter(at.numpy(), np.float16(end)) for end in ENDS)
    else:
        below, above = (at.nextafter(torch.tensor(end, dtype=dtype)) for end in ENDS)
    return below.item(), at.item(), above.item()


def _special_values(dtype: torch.dtype) -> list[float]:
    """Where implementations go wrong: edges and what lies next to them, extremes, non-numbers."""
    places = [*EDGES[::8], 0.05, float(np.float32(0.05)), -0.05, 1.0, 0.0]
    near = [x for place in places for x in neighbours(place, dtype)]
    limits = torch.finfo(dtype)
    largest = min(limits.max, 1e150)  # the squares of larger ones are beyond float64
    extreme = [largest, -largest, limits.tiny, limits.smallest_normal / 4, 9.3e18, 1e30, -1e30]
    return [*near, *extreme, -0.0, np.nan, np.inf, -np.inf]


_SPECIAL = {dtype: _special_values(dtype) for dtype in DTYPES}


@st.composite
def any_tensor(
    draw: st.DrawFn,
    dtypes: Sequence[torch.dtype] = DTYPES,
    min_dims: int = 0,
    max_dims: int = 5,
    min_side: int = 0,
) -> Tensor:
    """Any shape, dtype, values and memory layout that a layer may give."""
    dtype = draw(st.sampled_from(dtypes))
    shape = draw(
        hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, min_side=min_side, max_side=4)
    )
    usual = st.floats(-12, 12, width=32)
    values = draw(hnp.arrays(np.float64, shape, elements=usual | st.sampled_from(_SPECIAL[dtype])))
    return _laid_out(draw, torch.from_numpy(values).to(dtype))


def _laid_out(draw: st.DrawFn, x: Tensor) -> Tensor:
    layout = draw(
        st.sampled_from(["contiguous", "channels last", "permuted", "strided", "expanded"])
    )
    if layout == "channels last" and x.ndim in (4, 5):
        last = {4: torch.channels_last, 5: torch.channels_last_3d}[x.ndim]
        return x.contiguous(memory_format=last)
    if layout == "permuted":
        return x.permute(draw(st.permutations(range(x.ndim))))
    if layout == "strided" and x.ndim:
        return x.repeat_interleave(2, dim=-1)[..., ::2]
    if layout == "expanded":
        dim = draw(st.integers(0, x.ndim))
        return x.unsqueeze(dim).expand(*x.shape[:dim], 3, *x.shape[dim:])
    return x
