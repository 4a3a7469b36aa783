"""A picture of the activations now and then while a network trains, for the slider in MLflow."""

from __future__ import annotations

import logging
import math
import time

from tracking.plots.small_pictures import WIDTH, color_dim_image
from tracking.reasons import one_line
from tracking.recorders.activations import ActivationStats
from tracking.sink import Sink
from tracking.tables.columns import NEEDED, ColumnsBuilder
from tracking.tables.record_file import read_slices

__all__ = ["EpochPictures"]

log = logging.getLogger("layerscope")

KEY = "color_dim"
IMAGES = 20
SHARE = 0.01
"""Of the time since the run began, for drawing."""
AT_ONCE = 0.3
"""Seconds of drawing that a run may spend before that: a short run is to have pictures too."""


class EpochPictures:
    """Draws colour-dim of all layers so far, at most about 20 times in ``epochs`` epochs.

    Only rows written since the last picture are read. Drawing is left out where it would take more
    than 1 % of the time that has passed. A picture's step in MLflow is its epoch, counted from 0,
    where the slider begins.
    """

    def __init__(self, stats: ActivationStats, sink: Sink, epochs: int) -> None:
        self._stats = stats
        self._sink = sink
        self._stride = math.ceil(epochs / IMAGES)
        self._final = epochs - 1
        self._folder = stats.path.parent / "color_dim_epochs"
        self._parts = stats.path.parent / "parts" / stats.path.stem
        self._read: set[str] = set()
        self._builder = ColumnsBuilder(limit=WIDTH)
        self._began = time.perf_counter()
        self._spent = self._last = 0.0
        self._failed = False

    def draw(self, epoch: int) -> None:
        """Draw after an epoch (counted from 0), if it is its turn.

        A picture that cannot be drawn is the last one: no training is to end for it.
        """
        began = time.perf_counter()
        # Spread over the epochs, so that a short run is not only pictured at its beginning.
        at_once = AT_ONCE * (epoch + 1) / (self._final + 1)
        allowed = at_once + SHARE * (began - self._began)
        due = epoch % self._stride == 0 or epoch == self._final
        if self._failed or not due or self._spent + self._last > allowed:
            return
        self._stats.flush()
        try:
            self._draw(epoch)
        except Exception as error:
            self._failed = True
            log.warning("no more pictures of epochs: one could not be drawn (%s)", one_line(error))
        self._last = time.perf_counter() - began
        self._spent += self._last

    def _draw(self, epoch: int) -> None:
        self._update()
        layers = self._builder.columns()
        if layers:
            path = self._folder / f"{epoch:06}.png"
            self._folder.mkdir(parents=True, exist_ok=True)
            color_dim_image(layers).save(path)
            self._sink.image(path, KEY, epoch)

    def _update(self) -> None:
        for part in sorted(self._parts.glob("*.parquet")):
            if part.name not in self._read:
                self._read.add(part.name)
                for table in read_slices(part, NEEDED):
                    self._builder.add(table, part)
