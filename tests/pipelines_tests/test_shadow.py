"""A shadow answers without leaving a trace: the run beside it is the same to the last bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipelines.callbacks import Callback
from pipelines.config import RunConfig
from pipelines.fit import Fit
from pipelines.run import FitResult, Setup, prepare, train
from pipelines.shadow import Shadow, ShadowResult

__all__: list[str] = []

ConfigMaker = Callable[..., RunConfig]


class Ask(Callback):
    """Asks a shadow for something before the fit and after chosen steps."""

    order = 200

    def __init__(self, setup: Setup, ask: Callable[[Shadow, Fit], ShadowResult]) -> None:
        self.shadow = Shadow(setup)
        self.ask = ask
        self.results: list[ShadowResult] = []

    def before_fit(self, fit: Fit) -> None:
        self.results.append(self.shadow.cycle(3))

    def after_batch(self, fit: Fit) -> None:
        if fit.step in {1, 4}:
            self.results.append(self.ask(self.shadow, fit))


def run(
    config: RunConfig, folder: Path, *asks: Callable[[Shadow, Fit], ShadowResult]
) -> tuple[FitResult, list[ShadowResult], Tensor]:
    """A run, what its shadow said, and the next random number after it."""
    setup = prepare(config)
    callbacks = [Ask(setup, ask) for ask in asks]
    result = train(setup, folder, callbacks, test=False)
    answers = [answer for callback in callbacks for answer in callback.results]
    return result, answers, torch.rand(4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "sgd", "schedule": "constant", "norm": "none"},
        {"augment": "crop-flip", "erase": 0.5, "accumulate": 2, "epochs": 4},
        {"precision": "bf16", "channels_last": False, "batch_size": 7},
    ],
)
def test_the_run_is_bit_identical(
    options: dict[str, Any], small: ConfigMaker, tmp_path: Path, no_pictures: None
) -> None:
    config = small(**options)
    alone, _, random_alone = run(config, tmp_path / "alone")
    beside, answers, random_beside = run(config, tmp_path / "beside", lambda s, f: s.anneal(f, 5))
    assert len(answers) == 3
    for name, value in alone.model.state_dict().items():
        assert value.equal(beside.model.state_dict()[name]), name
    assert alone.valid == beside.valid
    assert random_alone.equal(random_beside)
    assert alone.activation_stats.read() == beside.activation_stats.read()


def test_the_run_as_it_is_goes_on_unseen(
    small: ConfigMaker, tmp_path: Path, no_pictures: None
) -> None:
    """Also where validations are recorded: this one is not the run's."""
    config = small(record_eval=True, epochs=2)
    alone, _, random_alone = run(config, tmp_path / "alone")
    beside, answers, random_beside = run(config, tmp_path / "beside", lambda s, f: s.as_it_is())
    for name, value in alone.model.state_dict().items():
        assert value.equal(beside.model.state_dict()[name]), name
    assert random_alone.equal(random_beside)
    assert alone.activation_stats is not None
    assert beside.activation_stats is not None
    rows = beside.activation_stats.read()
    assert "eval" in rows["mode"].to_pylist()
    assert alone.activation_stats.read() == rows
    assert alone.findings == beside.findings
    assert [answer.samples for answer in answers[1:]] == [0, 0]


def test_the_run_as_it_is_is_what_validation_finds(
    small: ConfigMaker, tmp_path: Path, no_pictures: None
) -> None:
    setup = prepare(small(epochs=1))
    shadow = Shadow(setup)
    result = train(setup, tmp_path, test=False)
    assert shadow.as_it_is().valid == result.valid


def test_the_same_question_has_the_same_answer(
    small: ConfigMaker, tmp_path: Path, no_pictures: None
) -> None:
    def twice(shadow: Shadow, fit: Fit) -> ShadowResult:
        first = shadow.anneal(fit, 4)
        shadow.cycle(2)  # whatever it did in between
        assert shadow.anneal(fit, 4) == first
        return first

    _, answers, _ = run(small(), tmp_path, twice)
    assert len(set(answers)) == 3  # but at other steps another one


def test_an_annealing_ends_where_the_run_would_with_its_rate_brought_to_zero(
    small: ConfigMaker, tmp_path: Path, no_pictures: None
) -> None:
    """At a learning rate of (nearly) nothing an annealing changes nothing but running averages."""
    config = small(lr_max=1e-12, norm="none", weight_decay=0)
    setup = prepare(config)
    ask = Ask(setup, lambda shadow, fit: shadow.anneal(fit, 3))
    result = train(setup, tmp_path, [ask], test=False)
    assert result.valid is not None
    for answer in ask.results:
        assert answer.valid.loss == pytest.approx(result.valid.loss, abs=1e-6)
        assert answer.valid.accuracy == result.valid.accuracy


def test_a_whole_cycle_is_a_whole_run(
    small: ConfigMaker, tmp_path: Path, no_pictures: None
) -> None:
    """As long as the run itself, a cycle comes to what the run does, but for the data's order."""
    config = small(epochs=30, lr_max=0.02, train_limit=300, batch_size=32, record=False)
    setup = prepare(config)
    again = Shadow(setup).cycle(30 * len(setup.loaders.train))
    result = train(setup, tmp_path, test=False)
    assert result.valid is not None
    assert again.valid.accuracy == pytest.approx(result.valid.accuracy, abs=0.06)
    assert again.samples == 30 * 300


def test_samples_are_those_that_were_trained_on(
    small: ConfigMaker, tmp_path: Path, no_pictures: None
) -> None:
    config = small(train_limit=40, batch_size=16)  # batches of 16, 16 and 8
    _, answers, _ = run(config, tmp_path, lambda s, f: s.anneal(f, 4))
    assert [answer.samples for answer in answers] == [40, 56, 56]


def test_a_shadow_that_diverges_says_so_and_the_run_goes_on(
    small: ConfigMaker, tmp_path: Path, no_pictures: None
) -> None:
    config = small(optimizer="sgd", lr_max=0.01, norm="none")

    def explode(shadow: Shadow, fit: Fit) -> ShadowResult:
        values = fit.values
        fit.values = values._replace(lr=1e30)
        try:
            return shadow.anneal(fit, 6)
        finally:
            fit.values = values

    result, answers, _ = run(config, tmp_path, explode)
    assert not math.isfinite(answers[-1].valid.loss)
    assert answers[-1].samples < 6 * 16
    assert result.valid is not None
    assert math.isfinite(result.valid.loss)
