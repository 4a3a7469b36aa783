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
    """The layers, or parameters, of which nothing is recorded any more, since a hook has failed.

    The first is told of at once, as a warning; all of them are in the run's tag
    ``layerscope.unrecorded.WHAT``.
    """

    def __init__(self, what: str, sink: Sink) -> None:
        self._what = what
        self._kind = "parameter" if what == "updates" else "layer"
        self._sink = sink
        self._reasons: dict[str, str] = {}

    def add(self, name: str, error: Exception) -> None:
        """Take a failure; the first one of each name counts."""
        if name in self._reasons:
            return
        why = one_line(error)
        self._reasons[name] = why
        tag = f"layerscope.unrecorded.{self._what}"
        if len(self._reasons) == 1:
            log.warning(
                "no more %s of %s %s, whose hook failed; the training goes on (%s); the run's "
                "tag %s names it, and others like it",
                *(self._what, self._kind, name, why, tag),
            )
        text = "; ".join(f"{name} ({reason})" for name, reason in self._reasons.items())
        with suppress(Exception):  # a disk that is full is told of by whoever writes tables
            self._sink.tags({tag: text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"})
