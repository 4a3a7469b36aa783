"""Hooks that fail: the training goes on without them, and whoever looks at the run is told."""

from __future__ import annotations

import logging
from contextlib import suppress

from tracking.reasons import one_line
from tracking.sink import Sink

__all__ = ["FailedHooks"]

log = logging.getLogger("layerscope")

LONGEST = 1000
"""Characters of the tag: MLflow takes no more than a few thousand."""


class FailedHooks:
    """The layers of which a recorder records nothing any more, since their hooks have failed.

    The first is told of at once, as a warning; all of them are in the run's tag
    ``layerscope.unrecorded.WHAT``.
    """

    def __init__(self, what: str, sink: Sink) -> None:
        self._what = what
        self._sink = sink
        self._reasons: dict[str, str] = {}

    def __contains__(self, layer: str) -> bool:
        return layer in self._reasons

    def add(self, layer: str, error: Exception) -> None:
        """Take a failure; a layer's first one counts."""
        if layer in self._reasons:
            return
        why = one_line(error)
        self._reasons[layer] = why
        tag = f"layerscope.unrecorded.{self._what}"
        if len(self._reasons) == 1:
            log.warning(
                "no more %s of layer %s, whose hook failed; the training goes on (%s); the run's "
                "tag %s names it, and others like it",
                *(self._what, layer, why, tag),
            )
        text = "; ".join(f"{name} ({reason})" for name, reason in self._reasons.items())
        with suppress(Exception):  # a disk that is full is told of by whoever writes tables
            self._sink.tags({tag: text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"})
