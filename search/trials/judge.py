"""Judge: the callback that has a trial judged while it trains, at its rungs and by its layers."""

from __future__ import annotations

import math
import time
from typing import Any

from optuna import Trial

from pipelines.callbacks import Callback
from pipelines.fit import Fit
from pipelines.run import FitResult, Setup
from pipelines.shadow import Shadow, ShadowResult
from search.algorithms.health import HEALTH, HealthRule
from search.algorithms.pruners import rung_score
from search.config import StudyConfig
from search.rung_plan import Rung
from tracking.errors import TrialStopped
from tracking.records import Finding, Metric
from tracking.sink import Sink

__all__ = ["Judge"]


class Judge(Callback):
    """Scores a trial at each rung of the study's plan, tells Optuna, and ends it if it says so.

    The training goes on undisturbed: with and without rungs it is bit-identical. Scores go to the
    trial's user attribute ``rungs`` and to the metrics ``rung/accuracy`` and ``rung/loss``.
    Findings go to ``health``, and the pruner is asked about them as it is at rungs. Raises
    TrialStopped, out of the fit: the pruner has ended the trial.
    """

    # After the recorders and the loss guard, so that what they say of this step is known.
    order = 200

    def __init__(self, trial: Trial, options: StudyConfig, setup: Setup, sink: Sink) -> None:
        self._trial = trial
        self._options = options
        self._plan = options.plan
        self._health = HealthRule(options.health)
        self._sink = sink
        self._rungs: list[Rung] = []
        self._scores: list[dict[str, float | None]] = []
        self._findings: list[dict[str, Any]] = []
        self._new_findings = False
        self._samples = 0
        self._seconds = 0.0
        self._epoch_began = time.perf_counter()
        self._aside_samples = 0
        self._aside_seconds = 0.0
        # Here, before anything is hooked to the model.
        self._shadow = None if self._plan.kind == "none" else Shadow(setup)

    def announce(self, finding: Finding) -> None:
        """Take a new finding of the diagnosis."""
        self._findings.append(
            {"rule": finding.rule, "severity": finding.severity, "summary": finding.summary}
        )
        self._new_findings = True

    def before_fit(self, fit: Fit) -> None:
        self._rungs = self._plan.rungs(fit.total_steps, self._options.rung_least_steps)
        self._epoch_steps = fit.total_steps // fit.epochs
        if self._plan.kind == "cycle":
            while self._rungs:
                self._judge(fit, self._rungs.pop(0))

    def before_epoch(self, fit: Fit) -> None:
        self._epoch_began = time.perf_counter()

    def after_batch(self, fit: Fit) -> None:
        self._samples += fit.batch_size
        if self._new_findings:
            self._look_at_health()
        if self._rungs and fit.step + 1 == self._rungs[0].step:
            self._judge(fit, self._rungs.pop(0))

    def after_epoch(self, fit: Fit) -> None:
        if self._new_findings:  # of the validation
            self._look_at_health()

    def cleanup_epoch(self, fit: Fit) -> None:
        # The history has no epoch that was cut short, as that of a pruned trial's last rung.
        cut_short = len(fit.history) <= fit.epoch
        elapsed = time.perf_counter() - self._epoch_began - fit.aside
        self._seconds += elapsed if cut_short else fit.history[-1].seconds

    def conclude(self, result: FitResult | None) -> None:
        """Note what has come of the trial; without a result, it was ended before its end."""
        self._trial.set_user_attr("samples", self._samples)
        self._trial.set_user_attr("aside_samples", self._aside_samples)
        self._trial.set_user_attr("aside_seconds", self._aside_seconds)
        self._trial.set_user_attr("seconds", self._seconds)
        # Of a trial that was ended, what has been announced; some of it would not have lasted.
        announced = (str(finding["rule"]) for finding in self._findings)
        stand = (finding.rule for finding in result.findings) if result else announced
        if names := list(dict.fromkeys(stand)):
            self._trial.set_user_attr("findings", names)
        if result is not None and result.valid is not None:
            self._trial.set_user_attr("accuracy", result.valid.accuracy)
            self._trial.set_user_attr("loss", result.valid.loss)

    def _judge(self, fit: Fit, rung: Rung) -> None:
        began = time.perf_counter()
        result = self._result(fit, rung)
        seconds = time.perf_counter() - began
        fit.aside += seconds
        self._aside_seconds += seconds
        self._aside_samples += result.samples
        self._keep(fit, rung, result)
        self._decide(rung, result)

    def _result(self, fit: Fit, rung: Rung) -> ShadowResult:
        assert self._shadow is not None
        match self._plan.kind:
            case "plain":
                return self._shadow.as_it_is()
            case "cycle":
                return self._shadow.cycle(rung.step)
        return self._shadow.anneal(fit, self._plan.anneal_steps(self._epoch_steps))

    def _keep(self, fit: Fit, rung: Rung, result: ShadowResult) -> None:
        valid = result.valid
        self._scores.append(
            {
                "share": rung.share,
                "accuracy": valid.accuracy,
                "loss": valid.loss if math.isfinite(valid.loss) else None,
                "samples": result.samples,
            }
        )
        self._trial.set_user_attr("rungs", self._scores)
        step, now = fit.step, time.time()
        self._sink.metrics(
            [
                Metric("rung/accuracy", valid.accuracy, step, now),
                Metric("rung/loss", valid.loss, step, now),
            ]
        )

    def _decide(self, rung: Rung, result: ShadowResult) -> None:
        valid = result.valid
        place = f"{self._plan.text} rung at {rung.share:.0%} of the run"
        if not math.isfinite(valid.loss):
            raise TrialStopped(f"diverged at the {place}: validation loss {valid.loss}")
        score = rung_score(valid.accuracy, valid.loss, self._options)
        self._trial.report(score, rung.number)
        self._ask_pruner(
            f"{self._options.pruner} at the {place}: validation loss {valid.loss:.4f}, "
            f"accuracy {valid.accuracy:.2%}"
        )

    def _look_at_health(self) -> None:
        self._new_findings = False
        self._trial.set_user_attr(HEALTH, self._findings)
        self._ask_pruner(self._options.pruner)

    def _ask_pruner(self, judged: str) -> None:
        """Raise TrialStopped where the pruner ends the trial: for a finding, or as ``judged``."""
        # Trial.should_prune refuses studies with two objectives, whose trials may fall ill, too.
        study = self._trial.study
        if study.pruner.prune(study, study.get_trials(deepcopy=False)[self._trial.number]):
            ill = self._health.first(self._findings)
            by = f"health ({ill['rule']}): {ill['summary']}" if ill else judged
            raise TrialStopped(f"pruned by {by}")
