"""The automatic interval of gradients and updates, in time as the test has it pass."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from tests.tracking_tests.models import batches, cnn, hooks_on, rows, sgd
from tracking import pace
from tracking.recorders import gradients, sum_stats, updates
from tracking.recorders.gradients import GradientStats
from tracking.recorders.metric_keys import metric_key
from tracking.recorders.updates import UpdateStats
from tracking.statistics import norms

__all__: list[str] = []


class Clock:
    """Time as the test has it pass."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that stands still but for 1 ms in every reduction."""
    clock = Clock()
    for module in (pace, sum_stats):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(pace, "BESIDE", 1.0)  # this clock misses nothing

    def gradient_sums(x: Tensor) -> Tensor:
        clock.now += 0.001
        return norms.gradient_sums(x)

    def update_sums(before: Tensor, after: Tensor) -> Tensor:
        clock.now += 0.001
        return norms.update_sums(before, after)

    monkeypatch.setattr(gradients, "gradient_sums", gradient_sums)
    monkeypatch.setattr(updates, "update_sums", update_sums)
    return clock


@pytest.mark.parametrize("evaluate", [False, True])
@pytest.mark.parametrize("kind", ["gradients", "updates"])
def test_recording_takes_its_share_of_the_time(kind: str, evaluate: bool, clock: Clock) -> None:
    model = cnn()
    optimizer = sgd(model)
    stats: Any = (
        GradientStats(model, optimizer=optimizer, layers="all", every="auto:0.1")
        if kind == "gradients"
        else UpdateStats(model, optimizer, every="auto:0.1")
    )
    with stats:
        for x in batches(1) * 60:
            model(x).square().mean().backward()
            clock.now += 0.01
            optimizer.step()
            if evaluate:
                model.eval()
                model(x)
                clock.now += 100
                model.train()
    # Four reductions of 1 ms in every n-th step of 10 ms: n = ceil(0.4 * 0.9 / 0.1). The first
    # recorded step is left out of the measure.
    steps = sorted({row["step"] for row in rows(stats.read())})
    assert steps == [0, 1, *range(5, 60, 4)]
    assert hooks_on(model, optimizer) == 0


def test_metric_keys_have_only_what_mlflow_takes() -> None:
    assert metric_key("updates", "a[0]: b/c.d-e_f*", "ratio") == "updates/a_0_: b/c.d-e_f_/ratio"
