"""What a comparison has come to: the runs of each value, and how the values differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median

from optuna import Study
from optuna.trial import FrozenTrial

from pipelines.config import RunConfig
from search.comparisons.pairs import DONE_WITH, pair_of
from search.comparisons.statistics import Difference, Summary, difference, holm, summary
from search.definition import StudyDefinition
from search.outcome import Outcome
from search.reports.trial_text import end_of, note, number_of
from search.space.dimension_text import value_text

__all__ = ["COMMAND", "VALID_IMAGES", "Arm", "Comparison", "Contrast", "Run", "comparison_of"]

VALID_IMAGES = "layerscope.valid_images"
"""User attribute of the study: how many images a result rests on."""
COMMAND = "layerscope.command"
"""User attribute: what was typed last."""
STATES = {"pruned": "diverged", "infeasible": "does not fit"}
"""What a training that a study would judge has come to here, where nothing is judged on its way."""

RANKS = {"complete": 0, "diverged": 0, "does not fit": 1, "running": 2, "waiting": 3, "failed": 4}
"""Which training of a pair counts. What fits into memory is a machine's, no result."""


@dataclass(frozen=True)
class Run:
    """One training."""

    seed: int
    state: str
    """complete, diverged, does not fit, failed, running, or waiting."""
    accuracy: float | None = None
    """Of validation, as the next."""
    loss: float | None = None
    seconds: float | None = None
    samples: float | None = None
    findings: tuple[str, ...] = ()
    """Rules of the diagnosis."""
    reason: str = ""
    run_id: str = ""


@dataclass(frozen=True)
class Arm:
    """The runs of one value, in order of their seeds."""

    text: str
    runs: tuple[Run, ...]

    @cached_property
    def complete(self) -> dict[int, Run]:
        """Those that were trained to their end, by seed."""
        return {run.seed: run for run in self.runs if run.state == "complete"}

    @cached_property
    def lost(self) -> Counter[str]:
        """How many have ended otherwise, by state."""
        ended = (run.state for run in self.runs if run.state not in {"running", "waiting"})
        return Counter(state for state in ended if state != "complete")

    def summary(self, objective: str) -> Summary:
        """Of accuracy or loss."""
        found = (getattr(run, objective) for run in self.complete.values())
        return summary([value for value in found if value is not None])

    @property
    def seconds(self) -> float | None:
        """Of training, median."""
        found = [run.seconds for run in self.complete.values() if run.seconds is not None]
        return median(found) if found else None

    @property
    def findings(self) -> list[tuple[str, int]]:
        """In how many runs the diagnosis found something, the most frequent first."""
        return Counter(rule for run in self.runs for rule in set(run.findings)).most_common()


@dataclass(frozen=True)
class Contrast:
    """A value beside the baseline, over the seeds that were trained to their end with both."""

    text: str
    seeds: tuple[int, ...]
    difference: Difference
    p: float
    """Of the sign-flip test, adjusted for the number of contrasts."""


@dataclass(frozen=True)
class Comparison:
    """All of it. The first arm is the baseline."""

    name: str
    factor: str
    objective: str
    """accuracy, of which more is better, or loss."""
    arms: tuple[Arm, ...]
    contrasts: tuple[Contrast, ...]
    valid_images: int | None
    about: str
    command: str
    """That repeats it or goes on with it."""

    @property
    def seeds(self) -> list[int]:
        """With which something was trained or is to be."""
        return sorted({run.seed for arm in self.arms for run in arm.runs})

    @property
    def over(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not any(run.state in {"running", "waiting"} for arm in self.arms for run in arm.runs)


def comparison_of(study: Study, definition: StudyDefinition) -> Comparison:
    """Of a comparison's study as it is now."""
    compared, base = definition.compared, definition.base
    assert compared is not None
    objective = "loss" if definition.options.objective == "loss" else "accuracy"
    outcome = Outcome.of(study)
    runs: dict[object, dict[int, Run]] = {value: {} for value in compared.values}
    for trial in outcome.trials:
        pair = pair_of(compared, trial)
        run = _run(trial, outcome.states[trial.number], pair[1]) if pair else None
        if pair is not None and run is not None and pair[0] in runs:
            _keep(runs[pair[0]], run)
    arms = tuple(
        Arm(value_text(value), tuple(found[seed] for seed in sorted(found)))
        for value, found in runs.items()
    )
    return Comparison(
        name=study.study_name,
        factor=compared.factor,
        objective=objective,
        arms=arms,
        contrasts=contrasts(arms, objective),
        valid_images=study.user_attrs.get(VALID_IMAGES),
        about=_about(base, compared.factor),
        command=str(study.user_attrs.get(COMMAND, "")),
    )


def _about(base: RunConfig, factor: str) -> str:
    """What is trained, as far as it is the same for all values."""
    model = "" if factor == "model" else f"{base.model} on "
    return f"{model}{base.dataset}" + ("" if factor == "epochs" else f", {base.epochs} epochs")


def contrasts(arms: Sequence[Arm], objective: str) -> tuple[Contrast, ...]:
    """Every other value beside the first."""
    baseline, *others = arms
    found = []
    for arm in others:
        seeds = tuple(sorted(baseline.complete.keys() & arm.complete.keys()))
        one, other = ([getattr(a.complete[s], objective) for s in seeds] for a in (baseline, arm))
        found.append((arm.text, seeds, difference(one, other, len(others))))
    adjusted = holm([difference.p for *_, difference in found])
    return tuple(Contrast(*one, p) for one, p in zip(found, adjusted, strict=True))


def _run(trial: FrozenTrial, state: str, seed: int) -> Run | None:
    """None for one that another has taken the place of."""
    if state in DONE_WITH - {"failed"}:
        return None
    complete = state == "complete"
    figures: Mapping[str, float | None] = {
        name: number_of(trial, name) if complete else None
        for name in ("accuracy", "loss", "seconds", "samples")
    }
    rules = trial.user_attrs.get("findings") or ()
    return Run(
        seed,
        STATES.get(state, state),
        **figures,
        findings=tuple(map(str, rules)),
        reason=end_of(trial) or "",
        run_id=note(trial, "mlflow_run_id") or "",
    )


def _keep(runs: dict[int, Run], run: Run) -> None:
    """Of several trainings of a pair (two commands, or a failed one that was tried again) the first
    that has come to something.

    A run that diverged has: another that did not, with the same seed, does not undo it.
    """
    known = runs.get(run.seed)
    if known is None or RANKS[run.state] < RANKS[known.state]:
        runs[run.seed] = run
