"""What does recording cost? Against the same training without it, and against the peers.

    python -m benchmarks.recording_cost [--rounds 5] [--epochs 2] [--limit 0] [--device cpu]

What recording costs is measured by trainings that take turns every few steps (benchmarks/turns.py).
Then all variants take turns in one process, as whole runs. They get the same images in memory, the
same batches in the same order, the same initial weights, kind of optimizer and one-cycle schedule,
and validate on the same images after each epoch; none looks at test data. Accuracies show that they
train alike.

The peers, fastai and Lightning, are installed beside the environment when they are missing; where
there is no registry, this project alone is measured. Their loops are made for the CPU; on another
device, too, this project alone is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import click

from benchmarks.devices import device_flag, device_options, results_path
from benchmarks.peers.packages import add_peers
from benchmarks.runs import tracked_training
from benchmarks.timing import (
    Figures,
    Target,
    interleaved,
    of_figures,
    summary_table,
    targets_table,
    write_report,
)
from benchmarks.turns import in_turns
from pipelines.config import RunConfig

__all__: list[str] = []

FIGURES = ("training", "whole run")
PEERS = ("fastai", "fastai, helped", "lightning", "lightning, helped")
AT_MOST = {512: 1.10, 128: 1.15}
"""Wanted of recorded / unrecorded, training alone, by batch size."""
PEERS_AT_LEAST = 2.5
ABOUT = """\
- *training*: seconds of the training epochs alone. *whole run*: from the opening of the MLflow run
  to its end, with validation, pictures and delivery; fastai's is its `fit`, since it logs nothing.
- *recorded*: every statistic of every step of the default layers, Recorder, and MLflow logging into
  a fresh SQLite store. *unrecorded*: the same run with `record=false`.
- *fastai*: `ActivationStats(with_hist=True)` as it comes: mean, std, share near zero and 40 bins of
  all layers that have parameters (ten), nothing logged; torch's usual memory layout, fastai's own
  AdamW. *helped*: with this project's `channels_last`, torch's AdamW, this project's five layers.
- *lightning*: MLFlowLogger into a fresh SQLite store, LearningRateMonitor at every step, and this
  project's statistics of the same layers from torch calls, logged by `log_dict` at every step;
  torch's usual memory layout. *helped*: with `channels_last`, and one call of the logger a step.
- All of them: the same batches from images in memory, the same weights, one-cycle schedule and
  decay; no progress bar, no checkpoints; validation after each epoch on the same images.
- *in turns*: two trainings, each in a process of its own, take turns every 20 steps; the rest of a
  process, and the one that it has sending to MLflow, stand still while it is the other's turn.
  *whole trainings*: one after the other, in one process.
- Ratios are formed round by round.
"""


def variants(own_runs: Mapping[str, RunConfig], peers: bool) -> dict[str, Callable[[], Figures]]:
    """What is compared, by name; the peers only where they can be imported."""
    own: dict[str, Callable[[], Figures]] = {
        name: partial(tracked_training, config) for name, config in own_runs.items()
    }
    if not peers:
        return own
    from benchmarks.peers.fastai_loop import fastai_training
    from benchmarks.peers.lightning_loop import lightning_training

    config = own_runs["recorded"]
    return own | {
        "fastai": partial(fastai_training, config, helped=False),
        "fastai, helped": partial(fastai_training, config, helped=True),
        "lightning": partial(lightning_training, config, helped=False),
        "lightning, helped": partial(lightning_training, config, helped=True),
    }


def cost(batch_size: int) -> Target:
    """Of recording, and what is wanted of it."""
    over, under = (f"{name}: training" for name in ("recorded", "unrecorded"))
    return Target(over, under, AT_MOST.get(batch_size))


def wanted(peers: bool) -> list[Target]:
    """The ratios of whole trainings; something is wanted of the training times alone."""
    training, whole = FIGURES
    others = PEERS if peers else ()
    return [
        *(
            Target(f"{peer}: {training}", f"recorded: {training}", PEERS_AT_LEAST, at_least=True)
            for peer in others
        ),
        Target(f"recorded: {whole}", f"unrecorded: {whole}"),
        *(Target(f"{peer}: {whole}", f"recorded: {whole}") for peer in others),
    ]


def measured(config: RunConfig, rounds: int, peers: bool) -> list[str]:
    """Ratios, seconds and accuracies of one batch size, as Markdown."""
    print(f"-- batch {config.batch_size} --", flush=True)
    own_runs = {"unrecorded": config.model_copy(update={"record": False}), "recorded": config}
    turns = in_turns(own_runs, rounds)
    whole = interleaved(variants(own_runs, peers), rounds)
    tables = [
        [f"## Batch {config.batch_size}, in turns"],
        targets_table(turns, [cost(config.batch_size)]),
        summary_table("seconds", of_figures(turns, "training")),
        [f"## Batch {config.batch_size}, whole trainings"],
        targets_table(whole, wanted(peers)),
        summary_table("seconds", of_figures(whole, *FIGURES)),
        summary_table("validation", of_figures(whole, "accuracy")),
    ]
    return [row for table in tables for row in [*table, ""]]


@click.command()
@click.option("--rounds", default=5, help="Measured rounds, after one to warm up.")
@click.option("--epochs", default=2)
@click.option("--batch-size", "sizes", type=int, multiple=True, default=(512, 128))
@click.option("--limit", default=0, help="Train on n images only, for a quick trial; 0 takes all.")
@device_options
def main(
    rounds: int,
    epochs: int,
    sizes: Sequence[int],
    limit: int,
    device: str,
    data_dir: Path,
    output: Path | None,
) -> None:
    """Run the variants in turn and write benchmarks/results/recording_cost.md."""
    missing = add_peers() if device == "cpu" else "the peers' loops are made for the CPU"
    if missing:
        print(f"Layerscope alone is measured: {missing}", flush=True)
    rows = [ABOUT, *([f"Layerscope alone: {missing}.", ""] if missing else [])]
    for size in sizes:
        config = RunConfig(
            dataset="fashion-mnist",
            batch_size=size,
            epochs=epochs,
            lr_max=0.03,
            train_limit=limit,
            device=device,
            data_dir=data_dir,
        )
        rows += measured(config, rounds, not missing)
    options = [("rounds", rounds), ("epochs", epochs), ("limit", limit)]
    options += [("batch-size", size) for size in sizes]
    flags = " ".join(f"--{name} {value}" for name, value in options)
    command = f"python -m benchmarks.recording_cost {flags}{device_flag(device)}"
    output = output or results_path("recording_cost", device)
    write_report(output, "Cost of recording: simple_cnn on Fashion-MNIST", command, rows)


if __name__ == "__main__":
    main()
