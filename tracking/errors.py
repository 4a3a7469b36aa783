"""Everything this project raises on purpose, in one tree.

LayerscopeError                 root; ``exit_code`` is what the command line ends with
├── BadInput (2)                something the user gave; found before any work starts
│   ├── BadOption               an option's value, or two options that do not go together
│   ├── BadDataset              data that is missing, unreadable or unfit for training
│   ├── BadModel                a model that cannot be built or does not fit the data
│   └── BadTracking             a tracking store or record directory that cannot be used
├── TrainingFailed (1)          training began and could not go on
│   ├── NonFiniteLoss           the loss became NaN or infinite
│   ├── StoppedByFinding        the diagnosis found what the run cannot recover from
│   └── TrialStopped             a search has ended one of its runs early
├── RecordsDamaged (1)          records on disk that cannot be read back
├── RecordsUnwritten (1)        records that the disk does not take
└── RecordsWaiting (3)          trained, but records still wait to be sent to MLflow

A message is one line: what was given, what is allowed, what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "BadDataset",
    "BadInput",
    "BadModel",
    "BadOption",
    "BadTracking",
    "LayerscopeError",
    "NonFiniteLoss",
    "RecordsDamaged",
    "RecordsUnwritten",
    "RecordsWaiting",
    "StoppedByFinding",
    "TrainingFailed",
    "TrialStopped",
    "did_you_mean",
]


class LayerscopeError(Exception):
    """Root of every error raised on purpose."""

    exit_code = 1


class BadInput(LayerscopeError):
    """The user gave something that cannot be used; nothing has been started."""

    exit_code = 2


class BadOption(BadInput):
    """An option's value is not allowed, or two options contradict each other."""


class BadDataset(BadInput):
    """The data is missing, unreadable, or cannot be trained on."""


class BadModel(BadInput):
    """The model cannot be built, or does not fit the images or the classes."""


class BadTracking(BadInput):
    """The tracking store or the record directory cannot be used."""


class TrainingFailed(LayerscopeError):
    """Training began and could not go on."""


class NonFiniteLoss(TrainingFailed):
    """The loss became NaN or infinite."""


class StoppedByFinding(TrainingFailed):
    """The diagnosis found something that the run cannot recover from, and was told to end it."""


class TrialStopped(TrainingFailed):
    """A search has ended one of its runs early: it has no prospects, or cannot be trained here."""


class RecordsDamaged(LayerscopeError):
    """A record file exists but cannot be read."""


class RecordsUnwritten(LayerscopeError):
    """Records cannot be written to disk: it is full, or their folder has gone."""


class RecordsWaiting(LayerscopeError):
    """Training is done, but some records have not reached MLflow yet."""

    exit_code = 3


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """The tail of an error message: `` Did you mean 'relu'?`` or an empty string."""
    close = get_close_matches(given, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
