"""What a warm-up leaves behind: nothing but a process that is warm."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from pipelines.config import RunConfig
from pipelines.run import prepare
from pipelines.warm_up import warm_up
from tracking.statistics.kernels import numba_kernel

__all__: list[str] = []

ConfigMaker = Callable[..., RunConfig]


@pytest.mark.parametrize("valid_fraction", [0.0, 0.2])
def test_it_trains_and_leaves_no_hook(small: ConfigMaker, valid_fraction: float) -> None:
    setup = prepare(small(valid_fraction=valid_fraction, accumulate=2))
    before = [p.detach().clone() for p in setup.model.parameters()]
    warm_up(setup)
    moved = [torch.equal(a, b) for a, b in zip(before, setup.model.parameters(), strict=True)]
    assert not all(moved)
    assert not any(module._forward_hooks for module in setup.model.modules())
    assert not setup.optimizer._optimizer_step_post_hooks


def test_the_kernel_is_there_afterwards(
    small: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    compiled = numba_kernel._compiled

    def noting(kind: type) -> object:
        asked.append(kind)
        return compiled(kind)

    monkeypatch.setattr(numba_kernel, "_compiled", noting)
    warm_up(prepare(small()))
    assert asked
