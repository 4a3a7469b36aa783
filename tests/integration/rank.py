"""One rank of trainings by several processes: python rank.py FOLDER RANK WORLD.

The one in FOLDER/well goes well. In FOLDER/uneven only the first rank evaluates, FOLDER/whole is
recorded by RunRecord on every rank and FOLDER/first on the first alone. In FOLDER/ill the last rank
fails.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tracking.recorders.activations import ActivationStats
from tracking.recorders.hyperparameters import Recorder
from tracking.recording import RunRecord

__all__ = ["STEPS", "Net", "batches", "record"]

STEPS = 21
FAILS_AT = 10
SHARES = (5, 3)
"""Samples of each rank in a batch of 8."""


class Net(nn.Module):
    """Two convolutions; one layer sees only batches that begin with a large number."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.relu = nn.ReLU()
        self.rare = nn.Tanh()
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (N, 2) for images (N, 1, 5, 5)."""
        x = self.relu(self.conv(x)).amax(dim=(2, 3))
        if x.flatten()[0] > 1:
            x = self.rare(x)
        scores: Tensor = self.head(x)
        return scores


def batches() -> list[Tensor]:
    """Global batches (8, 1, 5, 5); some have values that are not finite, in one rank's share."""
    source = torch.Generator().manual_seed(3)
    made = [torch.randn(8, 1, 5, 5, generator=source) * (1 + step) for step in range(STEPS)]
    made[4][7, 0, 2, 2] = torch.nan
    made[9][0, 0, 2, 2] = torch.inf
    return made


def record(
    folder: Path,
    share: slice,
    fails_at: int = -1,
    every: str = "1",
    evaluates: bool = True,
) -> None:
    """Train a copy of the net on a share of each batch, and record it."""
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with (
        Recorder(optimizer, directory=folder / "steps", flush_every=4) as recorder,
        ActivationStats(
            model, directory=folder / "stats", every=every, record_eval=True, flush_every=4
        ) as stats,
    ):
        for step, batch in enumerate(batches()):
            if step == fails_at:
                raise RuntimeError("this rank fails")
            x = batch[share]
            model(x)
            recorder.note(loss=x[:, 0, 0, 0].double().mean(), batch_size=len(x))
            optimizer.step()  # changes nothing: the ranks share no gradients here
            if evaluates and step % 5 == 4:
                model.eval()
                model(x)
                model.train()
            stats.step()


def record_run(folder: Path, share: slice, *, together: bool) -> None:
    """The same with everything that a run leaves; where not together, the first rank alone."""
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with ExitStack() as opened:
        run = None
        if together or dist.get_rank() == 0:
            run = opened.enter_context(RunRecord(model, optimizer, folder, together=together))
        for batch in batches():
            loss = model(batch[share]).square().mean()
            loss.backward()
            if run is not None:
                run.note(loss=loss, batch_size=len(batch[share]))
            optimizer.step()
            if run is not None:
                run.step()
            optimizer.zero_grad()
            dist.barrier()  # as the exchange of gradients


def main() -> None:
    """All trainings, one after the other; each with a group of its own."""
    folder, rank, world = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    first = sum(SHARES[:rank])
    share = slice(first, first + SHARES[rank])
    fails_at = FAILS_AT if rank == world - 1 else -1
    trainings: dict[str, Callable[[Path], None]] = {
        "well": partial(record, share=share),
        "uneven": partial(record, share=share, every="3", evaluates=rank == 0),
        "whole": partial(record_run, share=share, together=True),
        "first": partial(record_run, share=share, together=False),
        "ill": partial(record, share=share, fails_at=fails_at, every="2"),
    }
    for name, training in trainings.items():
        place = folder / name
        place.mkdir(exist_ok=True)
        dist.init_process_group("gloo", f"file://{place}/meeting", rank=rank, world_size=world)
        try:
            training(place)
        finally:
            dist.destroy_process_group()


if __name__ == "__main__":
    main()
