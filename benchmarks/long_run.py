"""The tasks of benchmarks/memory.py: each runs in a fresh process and reports time and peak memory.

Peak memory is the largest resident size of the process so far, in MiB, interpreter and libraries
included.
"""

from __future__ import annotations

import resource
import time
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.timing import Figures
from tracking import ActivationStats, Recorder
from tracking.plots.pictures import draw
from tracking.tables.record_file import RecordFile, read_batches
from tracking.tables.schemas import read_stats

__all__ = ["LAYERS", "draw_pictures", "peak_memory", "read", "record", "write"]

LAYERS = 20
FLUSH = 64
"""Steps that are gathered before they are written."""
STATS = Path("activations") / "stats.parquet"
STEPS = Path("hyperparameters") / "steps.parquet"


class ManyLayers(nn.Module):
    """Rectifiers side by side, each of which sees the input on a scale of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.scales = torch.linspace(0.2, 6.0, LAYERS).tolist()
        self.layers = nn.ModuleList(nn.ReLU() for _ in self.scales)

    def forward(self, x: Tensor) -> None:
        """(N, C, H, W); the layers' outputs are for their hooks alone."""
        for scale, layer in zip(self.scales, self.layers, strict=True):
            layer(x * scale)


def record(folder: Path, steps: int) -> Figures:
    """Record a run of so many steps below ``folder``, hyperparameters and activations."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = ManyLayers()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    began = time.perf_counter()
    with (
        torch.no_grad(),
        Recorder(
            optimizer,
            directory=folder / STEPS.parent,
            expected_steps=steps,
            flush_every=FLUSH,
        ) as recorder,
        ActivationStats(
            model,
            optimizer=optimizer,
            layers="layers",
            directory=folder / STATS.parent,
            expected_steps=steps,
            flush_every=FLUSH,
        ),
    ):
        for _ in range(steps):
            x = torch.randn(16, 4, 2, 2)
            model(x)
            recorder.note(loss=x.mean(), batch_size=len(x))
            optimizer.step()
    return {"seconds": time.perf_counter() - began, "MiB": peak_memory()}


def write(folder: Path) -> Figures:
    """Write the rows of a run once more, as many at a time as a flush has, and join them."""
    source = folder / STATS
    batches = read_batches(source)
    first = next(batches)
    seconds = 0.0
    again = RecordFile(STATS.name, first.schema, folder / "again")
    for batch in chain([first], batches):
        began = time.perf_counter()
        for start in range(0, len(batch), FLUSH * LAYERS):
            again.append(batch.slice(start, FLUSH * LAYERS))
        seconds += time.perf_counter() - began
    began = time.perf_counter()
    again.close()
    return {"seconds": seconds + time.perf_counter() - began, "MiB": peak_memory()}


def read(folder: Path) -> Figures:
    """Read every row back as one table."""
    began = time.perf_counter()
    rows = len(read_stats(folder / STATS))
    return {"seconds": time.perf_counter() - began, "MiB": peak_memory(), "rows": rows}


def draw_pictures(folder: Path) -> Figures:
    """Draw what a run's pictures are: of all layers together, and then one of each layer."""
    began = time.perf_counter()
    together = 0.0
    for _, place in draw(folder / STEPS, folder / STATS, (), folder / "pictures"):
        if place != "activations/color_dim":
            together = time.perf_counter() - began
    return {
        "seconds": time.perf_counter() - began,
        "seconds without those of single layers": together,
        "MiB": peak_memory(),
    }


def peak_memory() -> float:
    """The largest resident size of this process so far, in MiB."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        # macOS counts bytes. On Linux this would include what the parent was when it forked.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    size = next(line for line in lines if line.startswith("VmHWM"))
    return int(size.split()[1]) / 1024
