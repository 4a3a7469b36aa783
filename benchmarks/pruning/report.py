"""The tables: Kendall's tau of each kind of score, the samples that each way of pruning takes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner
from scipy.stats import kendalltau

from benchmarks.pruning.curves import BASE, CYCLES, LENGTHS, SHARES, Curve
from benchmarks.pruning.replay import (
    GOAL,
    MOST_TRIALS,
    Outcome,
    Score,
    Strategy,
    accuracy,
    epochs_of,
    replay,
    rungs_of,
)
from search.algorithms.pruners import make_pruner
from search.config import StudyConfig

__all__ = ["report_rows", "strategies", "taus"]

DEFAULT = "this project's default"
THEIRS = ("MedianPruner, plain, each epoch", "HyperbandPruner, plain, each epoch")


def report_rows(curves: Sequence[Curve], studies: int) -> list[str]:
    """The report in Markdown, a line each."""
    best = max(map(accuracy, curves))
    good = sum(accuracy(curve) >= best - GOAL for curve in curves)
    diverged = sum(curve["final"] is None for curve in curves)
    devices = ", ".join(sorted({curve["device"] for curve in curves}))
    return [
        (
            f"{len(curves)} configurations drawn at random from the default space, each trained on "
            f"{BASE['train_limit']:,} images of Fashion-MNIST for {BASE['epochs']} epochs "
            f"({devices}). Best "
            f"validation accuracy {best:.2%}; {good} configurations come within {GOAL:.1%} of it; "
            f"{diverged} diverged."
        ),
        "",
        "## Does a score on the way predict the end?",
        "",
        (
            "Kendall's tau between a score and the validation accuracy at the end. The score is "
            "the validation accuracy (in brackets: the validation loss) of the weights as they "
            "are, of a copy annealed for so many epochs, or of a complete short run of that share."
        ),
        "",
        *_tau_table(curves),
        "",
        "## What does pruning by it save?",
        "",
        (
            f"Training samples, in whole runs, until a configuration within {GOAL:.1%} of the best "
            f"has been trained to its end: {studies} study seeds, **replayed** from the recorded "
            "curves (each is an order of the configurations). Samples of annealings and short "
            f"cycles count. A study that has not found one after {MOST_TRIALS} trials counts with "
            "what it has spent by then."
        ),
        "",
        *_samples_table(curves, studies),
    ]


def taus(curves: Sequence[Curve]) -> Iterator[tuple[float, str, float, float]]:
    """Share, kind of score, tau of its accuracy and of its loss."""
    kinds = ["plain", *(f"anneal:{length}" for length in LENGTHS)]
    for share in SHARES:
        for kind in kinds:
            yield share, kind, *_tau(curves, "rungs", share, kind)
        if share in CYCLES:
            yield share, "cycle", *_tau(curves, "cycles", share, "cycle")


def strategies() -> list[Strategy]:
    """What is compared; the first of ours is what a study does that is told nothing else."""
    options = StudyConfig(name="default", health="none")
    return [
        Strategy("no pruning", lambda curve: [], NopPruner),
        Strategy(THEIRS[0], epochs_of, MedianPruner),
        Strategy(THEIRS[1], epochs_of, partial(HyperbandPruner, 1, BASE["epochs"], 3)),
        _ours(options, DEFAULT),
        *(_ours(options.model_copy(update=other)) for other in OTHERS),
    ]


OTHERS: tuple[dict[str, Any], ...] = (
    {"rung": "plain"},
    {"rung": "plain", "rung_score": "loss"},
    {"rung": "cycle", "rungs": "1/9"},
    {"rung": "anneal:0.1"},
    {"rung_score": "loss"},
    {"reduction": 4},
    {"bootstrap": 0},
    {"reduction": 2, "bootstrap": 0},
    {"reduction": 2, "bootstrap": 0, "rungs": "1/9"},
    {"rungs": "1/9"},
    {"rungs": "1/6"},
    {"rungs": "1/9,1/3"},
    {"rungs": "1/18,1/6"},
    {"pruner": "median"},
    {"pruner": "hyperband", "rungs": "1/18,1/6"},
)


def _ours(options: StudyConfig, name: str = "") -> Strategy:
    shown = (
        f"{options.pruner} (1 in {options.reduction}, {options.bootstrap} first) by "
        f"{options.judged_by}, {options.rung} at {options.rungs}"
    )
    scores: Callable[[Curve], Sequence[Score]] = partial(rungs_of, options=options)
    name = f"{name}: {shown}" if name else shown
    return Strategy(name, scores, partial(make_pruner, options))


def _tau(curves: Sequence[Curve], rows: str, share: float, kind: str) -> tuple[float, float]:
    final = [accuracy(curve) for curve in curves]
    found = [
        next((row[kind] for row in curve[rows] if abs(row["share"] - share) < 1e-9), None)
        for curve in curves
    ]
    # A run that had diverged by then is last.
    accuracies = [figures[0] if figures else 0.0 for figures in found]
    losses = [-figures[1] if figures and figures[1] == figures[1] else -1e9 for figures in found]
    return kendalltau(accuracies, final).statistic, kendalltau(losses, final).statistic


def _tau_table(curves: Sequence[Curve]) -> list[str]:
    kinds = ["plain", *(f"anneal:{length}" for length in LENGTHS), "cycle"]
    cells = {(s, k): f"{a:.2f} ({b:.2f})" for s, k, a, b in taus(curves)}
    shares = sorted({share for share, _ in cells})
    rows = [
        f"| {_fraction(share)} | {' | '.join(cells.get((share, kind), '') for kind in kinds)} |"
        for share in shares
    ]
    return [f"| after | {' | '.join(kinds)} |", "|---|" + "---|" * len(kinds), *rows]


def _fraction(share: float) -> str:
    return f"1/{round(1 / share)} of the run"


def _samples_table(curves: Sequence[Curve], studies: int) -> list[str]:
    found = {
        strategy.name: [replay(curves, strategy, seed) for seed in range(studies)]
        for strategy in strategies()
    }
    rows = [_samples_row(name, outcomes) for name, outcomes in found.items()]
    means = {name: statistics.fmean(o.runs for o in outcomes) for name, outcomes in found.items()}
    theirs = min(means[name] for name in THEIRS)
    ours = next(mean for name, mean in means.items() if name.startswith(DEFAULT))
    return [
        "| pruning | n | mean | median | 10 % to 90 % | trials | to the end | never found |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
        "",
        (
            f"The default takes {ours / theirs:.2f} of what the better of Optuna's two takes "
            f"(means; wanted: at most 0.5), and {ours / means['no pruning']:.2f} of no pruning."
        ),
    ]


def _samples_row(name: str, outcomes: Sequence[Outcome]) -> str:
    runs = sorted(outcome.runs for outcome in outcomes)
    n = len(runs)
    spread = f"{runs[n // 10]:.1f} - {runs[min(9 * n // 10, n - 1)]:.1f}"
    trials = statistics.fmean(outcome.trials for outcome in outcomes)
    complete = statistics.fmean(outcome.complete for outcome in outcomes)
    never = sum(not outcome.found for outcome in outcomes)
    return (
        f"| {name} | {n} | {statistics.fmean(runs):.1f} | {statistics.median(runs):.1f} | {spread} "
        f"| {trials:.0f} | {complete:.1f} | {never} |"
    )
