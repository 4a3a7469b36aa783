"""What share of a training's time does the diagnosis take?

    python -m benchmarks.diagnosis_cost [--rounds 5] [--epochs 1]

A share of a hundredth cannot be seen in the difference of two runs on a machine with noise. So the
time inside the diagnosis is added up while a run trains, on the thread that trains: *rules* is what
rules take, with the making of their arrays; *hooks* what looks at inputs and batch norms.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest import mock

import click

from benchmarks.timing import Figures, interleaved, summary_table, write_report
from pipelines.config import RunConfig
from pipelines.run import prepare, train
from tracking.diagnosis.live import LiveDiagnosis

__all__ = ["shares"]

RESULTS = Path(__file__).parent / "results" / "diagnosis_cost.md"
PARTS = {
    "rules": ("layers", "steps", "gradients", "updates", "validated"),
    "hooks": ("_before_forward", "note", "step"),
}


def shares(config: RunConfig) -> Figures:
    """Train once: percent of the training epochs' time, for each of PARTS and together."""
    setup = prepare(config)
    spent: dict[str, float] = defaultdict(float)
    with _watched(spent), tempfile.TemporaryDirectory(prefix="layerscope-bench-") as folder:
        result = train(setup, Path(folder), test=False)
    samples = setup.loaders.train.samples
    seconds = sum(samples / epoch.samples_per_second for epoch in result.history)
    figures = {part: 100 * spent[part] / seconds for part in PARTS}
    return figures | {"together": sum(figures.values())}


@contextmanager
def _watched(spent: dict[str, float]) -> Iterator[None]:
    with ExitStack() as patches:
        for part, names in PARTS.items():
            for name in names:
                method = _timed(getattr(LiveDiagnosis, name), part, spent)
                patches.enter_context(mock.patch.object(LiveDiagnosis, name, method))
        yield


def _timed(method: Callable[..., Any], part: str, spent: dict[str, float]) -> Callable[..., Any]:
    @wraps(method)
    def timed(*arguments: Any) -> Any:
        began = time.perf_counter()
        try:
            return method(*arguments)
        finally:
            spent[part] += time.perf_counter() - began

    return timed


@click.command()
@click.option("--rounds", default=5, help="Measured rounds, after one to warm up.")
@click.option("--epochs", default=1)
@click.option("--dataset", default="fashion-mnist")
@click.option("--batch-size", "sizes", type=int, multiple=True, default=(512, 128, 64))
@click.option("--limit", default=0, help="Train on n images only, for a quick trial; 0 takes all.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), default=RESULTS)
def main(
    rounds: int, epochs: int, dataset: str, sizes: Sequence[int], limit: int, output: Path
) -> None:
    """Train with default settings and write benchmarks/results/diagnosis_cost.md."""

    def variant(size: int) -> Callable[[], Figures]:
        config = RunConfig(
            dataset=dataset,
            batch_size=size,
            epochs=epochs,
            lr_max=0.03,
            train_limit=limit,
            device="cpu",
            report=False,
        )
        return lambda: shares(config)

    series = interleaved({f"batch {size}": variant(size) for size in sizes}, rounds)
    options = f"--rounds {rounds} --epochs {epochs} --dataset {dataset} --limit {limit}"
    options += "".join(f" --batch-size {size}" for size in sizes)
    command = f"python -m benchmarks.diagnosis_cost {options}"
    rows = [*summary_table("% of the training time", series), ""]
    write_report(output, f"Cost of the diagnosis: simple_cnn on {dataset}", command, rows)


if __name__ == "__main__":
    main()
