"""What a run that was stopped has left for the recorders with which it goes on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracking.diagnosis.live import LiveDiagnosis
from tracking.errors import RecordsDamaged
from tracking.pace import Pace
from tracking.run_recorders import RunRecorders

__all__ = ["EarlierRecords", "remembered"]

log = logging.getLogger("layerscope")


@dataclass(frozen=True)
class EarlierRecords:
    """The tables below ``folder``, as files or as folders of parts, under the names of a run's
    artifacts; of them, the steps before ``step``. ``state`` is what ``remembered`` gave then, and
    of the epochs' validations in it the first ``epochs`` count: a last one may come once more.
    """

    folder: Path
    step: int
    epochs: int
    state: Mapping[str, Any]

    def hand_over(
        self,
        recorders: RunRecorders,
        pace: Pace,
        diagnosis: LiveDiagnosis | None,
        directory: Path,
    ) -> None:
        """Let new recorders, which write below ``directory``, go on where those of then stopped.

        A table that is not there or cannot be read is a warning: its rows begin with this step.
        Raises RecordsUnwritten: the disk does not take them.
        """
        pace.interval.load_state_dict(self.state["pace"])
        for name, recorder in recorders.by_name().items():
            table = recorder.path.relative_to(directory)
            try:
                recorder.take_over(self._source(table), self.step)
            except RecordsDamaged as error:
                log.warning("%s lacks the steps before %d: %s", table, self.step, error)
            if name in self.state["recorders"]:
                recorder.load_state_dict(self.state["recorders"][name])
        if diagnosis is not None and self.state["diagnosis"]:
            diagnosis.recall(directory, self.state["diagnosis"], self.epochs)

    def _source(self, table: Path) -> Path:
        """The file, or the parts that were to become it."""
        whole = self.folder / table
        return whole if whole.exists() else whole.parent / "parts" / table.stem


def remembered(
    recorders: RunRecorders, pace: Pace, diagnosis: LiveDiagnosis | None
) -> dict[str, Any]:
    """What recorders know of the steps so far beside their tables: numbers, text and tensors.

    The tables are written first, so that they have all of these steps.
    """
    for recorder in recorders:
        recorder.flush()
    return {
        "pace": pace.interval.state_dict(),
        "recorders": {name: one.state_dict() for name, one in recorders.by_name().items()},
        "diagnosis": diagnosis.state_dict() if diagnosis is not None else {},
    }
