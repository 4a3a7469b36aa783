"""What the optimizer used, step by step, as arrays: for pictures of schedules and losses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tracking.errors import RecordsDamaged
from tracking.tables.record_file import read_slices
from tracking.tables.schemas import check_format

__all__ = ["StepColumns", "read_step_columns"]

_FLOATS = ("lr", "momentum", "loss", "loss_smooth")
_NEEDED = ("step", "group", *_FLOATS)


@dataclass(frozen=True)
class StepColumns:
    """The steps of an optimizer's first parameter group."""

    step: npt.NDArray[np.int64]
    """(n,) Optimizer steps done before each."""
    lr: npt.NDArray[np.float64]
    """(n,) NaN where there is no value, as for the next."""
    momentum: npt.NDArray[np.float64]
    loss: npt.NDArray[np.float64]
    loss_smooth: npt.NDArray[np.float64]
    groups: int = 1
    """Parameter groups that the optimizer had."""

    def __len__(self) -> int:
        return len(self.step)

    def thinned(self, limit: int) -> StepColumns:
        """At most ``limit`` of the steps, the first and the last among them; losses are averages.

        The loss of a step that stays is the mean over it and those left out after it. Where one of
        them is NaN, so is the mean: a run that came to grief must show it.
        """
        if len(self) <= limit:
            return self
        places = np.unique(np.linspace(0, len(self) - 1, max(2, limit)).round().astype(np.int64))
        counts = np.diff(np.append(places, len(self)))
        loss = np.add.reduceat(self.loss, places) / counts
        rest = {name: getattr(self, name)[places] for name in ("lr", "momentum", "loss_smooth")}
        return StepColumns(self.step[places], loss=loss, groups=self.groups, **rest)


def read_step_columns(source: Path) -> StepColumns:
    """The first group's rows at ``source``, steps.parquet or the folder of its parts.

    Raises RecordsDamaged: unreadable, no such table, or written by a newer version.
    """
    parts: list[dict[str, npt.NDArray[np.float64]]] = []
    groups: dict[str, None] = {}
    for table in read_slices(source, _NEEDED):
        check_format(table.schema, source)
        missing = [name for name in _NEEDED if name not in table.column_names]
        if missing:
            raise RecordsDamaged(f"{source}: is another table, without the columns {missing}")
        groups |= dict.fromkeys(table["group"].unique().to_pylist())
        first = pc.equal(table["group"].cast(pa.string()), next(iter(groups), ""))
        chosen = first.to_numpy()
        columns = {name: table[name].to_numpy().astype(np.float64) for name in ("step", *_FLOATS)}
        parts.append({name: values[chosen] for name, values in columns.items()})
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    step = joined.pop("step").astype(np.int64)
    return StepColumns(step, groups=max(1, len(groups)), **joined)
