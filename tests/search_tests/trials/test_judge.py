"""Judge: what a trial is judged by while it trains, and what it leaves on the trial."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna import Study, Trial
from optuna.pruners import NopPruner

from pipelines.callbacks import Callback
from pipelines.config import RunConfig
from pipelines.data.datasets import ImageData, load_dataset
from pipelines.evaluation import Evaluation
from pipelines.fit import Fit
from pipelines.run import FitResult, prepare, train
from pipelines.shadow import Shadow, ShadowResult
from search.algorithms.health import HEALTH
from search.algorithms.pruners import make_pruner
from search.definition import StudyDefinition
from search.storage.studies import directions
from search.trials import judge as judge_module
from search.trials.judge import Judge
from tests.search_tests.conftest import SMALL
from tracking.errors import TrialStopped
from tracking.records import Finding
from tracking.sink import MemorySink

__all__: list[str] = []

Defined = Callable[..., StudyDefinition]


@pytest.fixture(scope="module")
def data() -> ImageData:
    """Loaded once."""
    return load_dataset(RunConfig(**SMALL))


class Judged:
    """A run under a judge, with what it leaves."""

    def __init__(
        self,
        definition: StudyDefinition,
        data: ImageData,
        folder: Path,
        callbacks: Callable[[Judge], Sequence[Callback]] = lambda judge: (),
        study: Study | None = None,
        stand: Sequence[Finding] = (),
    ) -> None:
        options = definition.options
        self.study = study or optuna.create_study(
            directions=directions(options), pruner=make_pruner(options)
        )
        self.trial: Trial = self.study.ask()
        self.sink = MemorySink()
        setup = prepare(definition.with_options({"diagnose": False, "record": False}), data)
        self.judge = Judge(self.trial, options, setup, self.sink)
        self.result: FitResult | None = None
        self.stopped = ""
        try:
            self.result = train(
                setup, folder, [self.judge, *callbacks(self.judge)], self.sink, test=False
            )
        except TrialStopped as stopped:
            self.stopped = str(stopped)
        if self.result is not None:
            self.result = replace(self.result, findings=stand)
        self.judge.conclude(self.result)

    @property
    def notes(self) -> dict[str, Any]:
        """The trial's user attributes."""
        return self.trial.user_attrs


@pytest.fixture
def judged(defined: Defined, data: ImageData, tmp_path: Path) -> Callable[..., Judged]:
    def run(
        callbacks: Callable[[Judge], Sequence[Callback]] = lambda judge: (),
        study: Study | None = None,
        stand: Sequence[Finding] = (),
        **options: Any,
    ) -> Judged:
        return Judged(defined(**options), data, tmp_path, callbacks, study, stand)

    return run


class At(Callback):
    """Does something before a step, or before the end of an epoch."""

    def __init__(self, act: Callable[[], None], step: int = -1, epoch: int = -1) -> None:
        self._act, self._step, self._epoch = act, step, epoch

    def before_step(self, fit: Fit) -> None:
        if fit.step == self._step:
            self._act()

    def after_validate(self, fit: Fit) -> None:
        if fit.epoch == self._epoch:
            self._act()


def finding(rule: str, severity: str = "critical") -> Finding:
    return Finding(rule, severity, f"{rule} in conv1", "a cause", (), 1, 2, 2)


# -- rungs --


def test_rungs_are_judged_after_their_steps(judged: Callable[..., Judged]) -> None:
    done = judged(rung="plain", rungs="1/8,1/2,7/8", pruner="halving")
    assert not done.stopped
    points = [(m.key, m.step) for m in done.sink.logged_metrics if m.key.startswith("rung/")]
    assert points == [(key, step) for step in (0, 3, 6) for key in ("rung/accuracy", "rung/loss")]
    assert [rung["share"] for rung in done.notes["rungs"]] == [1 / 8, 1 / 2, 7 / 8]
    assert set(done.study.trials[0].intermediate_values) == {1, 2, 3}


def test_a_plain_rung_is_the_validation_as_it_is(judged: Callable[..., Judged]) -> None:
    done = judged(rung="plain", rungs="1/2")
    assert done.result is not None
    after_first_epoch = done.result.history[0].valid
    assert after_first_epoch is not None
    rung = done.notes["rungs"][0]
    assert rung["loss"] == pytest.approx(after_first_epoch.loss, rel=1e-6)
    assert rung["accuracy"] == after_first_epoch.accuracy
    assert (rung["samples"], done.notes["aside_samples"]) == (0, 0)


@pytest.mark.parametrize("rung", ["plain", "anneal:0.3", "cycle"])
def test_what_is_recorded_is_the_run_alone(
    rung: str, defined: Defined, data: ImageData, tmp_path: Path, no_drawings: None
) -> None:
    """A rung's validation is none of the run's, though validations are recorded too."""

    def recorded(kind: str) -> FitResult:
        definition = defined(
            base={"record_eval": True}, rung=kind, rungs="1/4,3/4", pruner="threshold:0"
        )
        setup = prepare(definition.with_options({}), data)
        judge = Judge(optuna.create_study().ask(), definition.options, setup, MemorySink())
        result = train(setup, tmp_path / kind[:5], [judge], test=False)
        assert len(judge._scores) == (0 if kind == "none" else 2)
        return result

    alone, beside = recorded("none"), recorded(rung)
    assert alone.activation_stats is not None
    assert beside.activation_stats is not None
    assert beside.activation_stats.read() == alone.activation_stats.read()
    assert (beside.valid, beside.findings) == (alone.valid, alone.findings)


def test_rungs_of_a_cycle_come_before_the_training(judged: Callable[..., Judged]) -> None:
    seen: list[int] = []
    done = judged(
        lambda judge: [At(lambda: seen.append(len(judge._scores)), step=0)],
        rung="cycle",
        rungs="1/8,1/2",
    )
    assert seen == [2]
    assert done.notes["aside_samples"] == sum(rung["samples"] for rung in done.notes["rungs"]) > 0
    assert done.notes["samples"] == 2 * 60


def test_there_are_no_rungs_where_none_are_asked_for(judged: Callable[..., Judged]) -> None:
    done = judged(rung="none")
    assert "rungs" not in done.notes
    assert (done.notes["aside_samples"], done.notes["aside_seconds"]) == (0, 0.0)
    assert done.judge._shadow is None


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_rung_that_diverged_ends_the_trial(
    loss: float, judged: Callable[..., Judged], monkeypatch: pytest.MonkeyPatch
) -> None:
    def anneal(shadow: Shadow, fit: Fit, steps: int) -> ShadowResult:
        return ShadowResult(Evaluation(loss, 0.1), 32)

    monkeypatch.setattr(Shadow, "anneal", anneal)
    done = judged(rungs="1/2")
    assert done.stopped == (
        f"diverged at the anneal:0.3 rung at 50% of the run: validation loss {loss}"
    )
    assert done.notes["rungs"] == [{"share": 0.5, "accuracy": 0.1, "loss": None, "samples": 32}]
    assert done.study.trials[0].intermediate_values == {}
    assert (done.notes["samples"], done.notes["aside_samples"]) == (60, 32)
    assert "accuracy" not in done.notes


def test_a_pruned_trial_says_where_and_why(judged: Callable[..., Judged]) -> None:
    done = judged(rung="plain", rungs="1/4", pruner="threshold:2", health="none")
    rung = done.notes["rungs"][0]
    assert done.stopped == (
        "pruned by threshold:2 at the plain rung at 25% of the run: validation loss "
        f"{rung['loss']:.4f}, accuracy {rung['accuracy']:.2%}"
    )


def test_what_a_pruned_trial_took_is_known(
    judged: Callable[..., Judged], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of the epoch in which it ended, without the time that the rungs took."""
    clock = iter(range(10**6))
    monkeypatch.setattr(judge_module.time, "perf_counter", lambda: float(next(clock)))
    first = judged(rung="plain", rungs="1/4", pruner="threshold:2")
    assert first.notes["samples"] == 32
    assert first.notes["aside_seconds"] == 1.0
    assert first.notes["seconds"] >= 1.0
    second = judged(rung="plain", rungs="3/4", pruner="threshold:2")
    assert second.notes["samples"] == 60 + 32
    assert second.notes["seconds"] > first.notes["seconds"]


def test_a_complete_trial_took_what_its_epochs_took(judged: Callable[..., Judged]) -> None:
    done = judged()
    assert done.result is not None
    assert done.notes["seconds"] == sum(epoch.seconds for epoch in done.result.history) > 0
    assert done.notes["samples"] == 2 * 60
    valid = done.result.valid
    assert valid is not None
    assert (done.notes["accuracy"], done.notes["loss"]) == (valid.accuracy, valid.loss)


def test_trials_compete_at_a_rung(
    judged: Callable[..., Judged], monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([1.0, 2.0, 0.5])

    def anneal(shadow: Shadow, fit: Fit, steps: int) -> ShadowResult:
        return ShadowResult(Evaluation(next(losses), 0.5), 8)

    monkeypatch.setattr(Shadow, "anneal", anneal)
    first = judged(rungs="1/2")
    ends = [first.stopped]
    for _ in range(2):
        first.study.tell(first.study.trials[-1].number, state=optuna.trial.TrialState.PRUNED)
        ends.append(judged(rungs="1/2", study=first.study).stopped)
    assert [bool(end) for end in ends] == [False, True, False]
    assert "pruned by halving" in ends[1]


# -- the diagnosis --


def test_a_finding_ends_the_trial_at_its_step(judged: Callable[..., Judged]) -> None:
    done = judged(
        lambda judge: [At(lambda: judge.announce(finding("dead_layer")), step=2)], rung="none"
    )
    assert done.stopped == "pruned by health (dead_layer): dead_layer in conv1"
    assert done.notes["samples"] == 3 * 16
    assert done.notes["findings"] == ["dead_layer"]
    assert done.notes[HEALTH] == [
        {"rule": "dead_layer", "severity": "critical", "summary": "dead_layer in conv1"}
    ]


def test_the_studys_pruner_decides_about_health(judged: Callable[..., Judged]) -> None:
    """The judge only tells it: a study whose pruner does not look at findings ends no trial."""
    study = optuna.create_study(direction="maximize", pruner=NopPruner())
    done = judged(
        lambda judge: [At(lambda: judge.announce(finding("dead_layer")), step=2)],
        study=study,
        rung="none",
    )
    assert not done.stopped
    assert [one["rule"] for one in done.notes[HEALTH]] == ["dead_layer"]


def test_health_ends_trials_of_two_objectives(judged: Callable[..., Judged]) -> None:
    done = judged(
        lambda judge: [At(lambda: judge.announce(finding("dead_layer")), step=2)],
        objective="accuracy,seconds",
    )
    assert done.stopped == "pruned by health (dead_layer): dead_layer in conv1"


@pytest.mark.parametrize("health", ["critical", "none"])
def test_a_finding_that_stops_nothing_is_no_second_rung(
    health: str, judged: Callable[..., Judged]
) -> None:
    """Others that have come to the rung since then do not end a trial that went on from it."""

    def others_come(judge: Judge) -> None:
        for _ in range(4):
            trial = judge._trial.study.ask()
            trial.report(2.0, 1)
            judge._trial.study.tell(trial, 2.0)
        judge.announce(finding("saturated", "warning"))

    done = judged(
        lambda judge: [At(lambda: others_come(judge), step=5)], rungs="1/4", health=health
    )
    assert set(done.study.trials[0].intermediate_values) == {1}
    assert [one["rule"] for one in done.notes[HEALTH]] == ["saturated"]
    assert not done.stopped


def test_a_finding_of_the_validation_ends_it_after_the_epoch(
    judged: Callable[..., Judged],
) -> None:
    done = judged(
        lambda judge: [At(lambda: judge.announce(finding("constant_predictions")), epoch=0)],
        rung="none",
    )
    assert done.stopped.startswith("pruned by health (constant_predictions)")
    assert done.notes["samples"] == 60
    assert done.notes["seconds"] > 0


def test_findings_that_stop_nothing_are_only_kept(judged: Callable[..., Judged]) -> None:
    def announce(judge: Judge) -> None:
        for one in (
            finding("saturated", "warning"),
            finding("overfitting"),
            finding("saturated", "warning"),
        ):
            judge.announce(one)

    stand = [finding("overfitting"), finding("lr_too_low"), finding("overfitting")]
    done = judged(
        lambda judge: [At(lambda: announce(judge), step=1)], stand=stand, health="critical"
    )
    assert not done.stopped
    # As the run itself has them: one was withdrawn, another came when it ended.
    assert done.notes["findings"] == ["overfitting", "lr_too_low"]
    assert [one["rule"] for one in done.notes[HEALTH]] == ["saturated", "overfitting", "saturated"]


def test_none_stops_no_trial(judged: Callable[..., Judged]) -> None:
    done = judged(
        lambda judge: [At(lambda: judge.announce(finding("dead_layer")), step=1)], health="none"
    )
    assert not done.stopped
    assert [one["rule"] for one in done.notes[HEALTH]] == ["dead_layer"]
    assert "findings" not in done.notes


def test_health_comes_before_the_score_of_the_same_step(judged: Callable[..., Judged]) -> None:
    done = judged(
        lambda judge: [At(lambda: judge.announce(finding("dead_layer")), step=3)],
        rung="plain",
        rungs="1/2",
        pruner="threshold:2",
    )
    assert done.stopped.startswith("pruned by health")
    assert "rungs" not in done.notes


def test_a_trial_without_findings_has_none(judged: Callable[..., Judged]) -> None:
    done = judged(rung="none")
    assert HEALTH not in done.notes
    assert "findings" not in done.notes
