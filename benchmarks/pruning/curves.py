"""Curves: random configurations trained to their end, with every score that a rung could have had.

A study's pruner sees some of these scores. To try many pruners over many study seeds the
configurations are trained once, recorded here, and replayed (benchmarks/pruning/replay.py).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna

from benchmarks.timing import processor
from pipelines.callbacks import Callback
from pipelines.config import RunConfig
from pipelines.data.datasets import load_dataset
from pipelines.evaluation import Evaluation, evaluate
from pipelines.fit import Fit
from pipelines.options import config_from
from pipelines.run import Setup, prepare, train
from pipelines.shadow import Shadow
from search.space.search_space import SearchSpace
from tracking.errors import NonFiniteLoss

__all__ = ["BASE", "CYCLES", "LENGTHS", "SHARES", "Curve", "draw", "read", "record"]

Curve = dict[str, Any]
"""``config`` (what is drawn), ``samples`` (of the whole run), ``final`` (accuracy and loss, or None
where the run diverged), ``epochs`` (the same after each), ``rungs``, ``cycles``, ``device``."""

BASE: dict[str, Any] = {
    "dataset": "fashion-mnist",
    "train_limit": 20_000,
    "valid_fraction": 0.1,
    "epochs": 6,
    "record": False,
}
SHARES = (1 / 18, 1 / 9, 1 / 6, 1 / 3)
LENGTHS = (0.1, 0.3)
"""Epochs of an annealing."""
CYCLES = (1 / 9, 1 / 3)


def draw(count: int, seed: int) -> list[dict[str, Any]]:
    """Configurations drawn at random from the default space: what of RunConfig they set."""
    base = RunConfig(**BASE)
    space = SearchSpace.read()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [space.suggest(study.ask(), base) for _ in range(count)]


def read(path: Path) -> list[Curve]:
    """What was recorded; a curve that an interruption cut short is left out."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def record(count: int, seed: int, path: Path) -> Iterator[Curve]:
    """Train what is missing in ``path`` of ``count`` configurations; gives each new curve."""
    done = len(read(path))
    data = load_dataset(RunConfig(**BASE))
    path.parent.mkdir(parents=True, exist_ok=True)
    for options in draw(count, seed)[done:]:
        setup = prepare(config_from(RunConfig, BASE | options), data)
        curve = _curve(setup, options)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(curve) + "\n")
        yield curve


class _Rungs(Callback):
    """Scores the run at every share, in every way."""

    order = 200

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.shadow = Shadow(setup)
        self.rows: list[dict[str, Any]] = []

    def before_fit(self, fit: Fit) -> None:
        self.places = {max(round(share * fit.total_steps), 1): share for share in SHARES}
        self.epoch_steps = fit.total_steps // fit.epochs

    def after_batch(self, fit: Fit) -> None:
        share = self.places.get(fit.step + 1)
        if share is None:
            return
        plain = evaluate(self.setup.model, self.setup.loaders.valid, fit.device)
        row: dict[str, Any] = {"share": share, "plain": [*_figures(plain), 0]}
        for length in LENGTHS:
            found = self.shadow.anneal(fit, max(round(length * self.epoch_steps), 1))
            row[f"anneal:{length}"] = [*_figures(found.valid), found.samples]
        self.rows.append(row)


def _curve(setup: Setup, options: dict[str, Any]) -> Curve:
    rungs = _Rungs(setup)
    steps = len(setup.loaders.train) * setup.config.epochs
    cycles = []
    for share in CYCLES:
        found = rungs.shadow.cycle(max(round(share * steps), 1))
        cycles.append({"share": share, "cycle": [*_figures(found.valid), found.samples]})
    history, final = [], None
    try:
        with tempfile.TemporaryDirectory() as folder:
            result = train(setup, Path(folder), [rungs], test=False)
        history = [_figures(epoch.valid) for epoch in result.history if epoch.valid]
        final = history[-1]
    except NonFiniteLoss:
        pass
    samples = setup.loaders.train.samples * setup.config.epochs
    return {
        "config": options,
        "samples": samples,
        "final": final,
        "epochs": history,
        "rungs": rungs.rows,
        "cycles": cycles,
        "device": processor(setup.device),
    }


def _figures(found: Evaluation) -> list[float]:
    return [found.accuracy, found.loss]
