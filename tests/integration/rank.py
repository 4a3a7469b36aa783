"""One rank of two trainings by several processes: python rank.py FOLDER RANK WORLD.

The first one, in FOLDER/well, goes well. In the second one, in FOLDER/ill, the last rank fails.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tracking.activations import ActivationStats
from tracking.hyperparameters import Recorder

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


def record(folder: Path, share: slice, fails_at: int = -1, every: str = "1") -> None:
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
            if step % 5 == 4:
                model.eval()
                model(x)
                model.train()
            stats.step()


def train(folder: Path, rank: int, world: int, fails_at: int, every: str) -> None:
    """Join the others, train, and leave."""
    folder.mkdir(exist_ok=True)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=world)
    first = sum(SHARES[:rank])
    try:
        record(folder, slice(first, first + SHARES[rank]), fails_at, every)
    finally:
        dist.destroy_process_group()


def main() -> None:
    """Both trainings, one after the other."""
    folder, rank, world = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    train(folder / "well", rank, world, -1, "1")
    train(folder / "ill", rank, world, FAILS_AT if rank == world - 1 else -1, "2")


if __name__ == "__main__":
    main()
