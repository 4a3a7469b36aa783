"""Where records go: one protocol; nowhere, into memory, or to several places at once.

The sink that reaches MLflow (tracking/mlflow_runs/sink.py) writes to disk first
(tracking/spool.py), and another process sends (tracking/mlflow_runs/uploader.py); none of them
keeps the training loop waiting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from tracking.records import DatasetInfo, Metric

__all__ = ["FanOutSink", "MemorySink", "NullSink", "Sink"]


class Sink(Protocol):
    """Takes what a run leaves behind. Calls return at once; ``close`` waits."""

    def metrics(self, metrics: Sequence[Metric]) -> None:
        """Take points of metrics, in any order."""

    def params(self, params: Mapping[str, str]) -> None:
        """Take parameters of the run; each name is given once."""

    def tags(self, tags: Mapping[str, str]) -> None:
        """Take tags of the run; a later value replaces an earlier one."""

    def dataset(self, dataset: DatasetInfo) -> None:
        """Take the description of the data the run trains on."""

    def artifact(self, path: Path, folder: str = "") -> None:
        """Take a file, which must stay where it is until ``close``, for a folder of the run."""

    def image(self, path: Path, key: str, step: int) -> None:
        """Take a picture as one of a series: the run's page has a slider over a key's steps.

        The file, a PNG, must stay where it is until ``close``.
        """

    def hurry(self) -> None:
        """The training is over: what has been kept back to leave it the processor may be sent."""

    def close(self) -> None:
        """Deliver what is left, within a deadline. May be called twice."""


class NullSink:
    """Takes everything and keeps nothing."""

    def metrics(self, metrics: Sequence[Metric]) -> None:
        pass

    def params(self, params: Mapping[str, str]) -> None:
        pass

    def tags(self, tags: Mapping[str, str]) -> None:
        pass

    def dataset(self, dataset: DatasetInfo) -> None:
        pass

    def artifact(self, path: Path, folder: str = "") -> None:
        pass

    def image(self, path: Path, key: str, step: int) -> None:
        pass

    def hurry(self) -> None:
        pass

    def close(self) -> None:
        pass


class MemorySink:
    """Keeps everything in attributes, for tests and notebooks."""

    def __init__(self) -> None:
        self.logged_metrics: list[Metric] = []
        self.logged_params: dict[str, str] = {}
        self.logged_tags: dict[str, str] = {}
        self.logged_datasets: list[DatasetInfo] = []
        self.logged_artifacts: dict[str, Path] = {}
        self.logged_images: dict[tuple[str, int], Path] = {}
        self.closed = False

    def metrics(self, metrics: Sequence[Metric]) -> None:
        self.logged_metrics.extend(metrics)

    def params(self, params: Mapping[str, str]) -> None:
        self.logged_params.update(params)

    def tags(self, tags: Mapping[str, str]) -> None:
        self.logged_tags.update(tags)

    def dataset(self, dataset: DatasetInfo) -> None:
        self.logged_datasets.append(dataset)

    def artifact(self, path: Path, folder: str = "") -> None:
        self.logged_artifacts[f"{folder}/{path.name}".lstrip("/")] = path

    def image(self, path: Path, key: str, step: int) -> None:
        self.logged_images[key, step] = path

    def hurry(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class FanOutSink:
    """Passes everything on to several sinks."""

    def __init__(self, *sinks: Sink) -> None:
        self.sinks = sinks

    def metrics(self, metrics: Sequence[Metric]) -> None:
        for sink in self.sinks:
            sink.metrics(metrics)

    def params(self, params: Mapping[str, str]) -> None:
        for sink in self.sinks:
            sink.params(params)

    def tags(self, tags: Mapping[str, str]) -> None:
        for sink in self.sinks:
            sink.tags(tags)

    def dataset(self, dataset: DatasetInfo) -> None:
        for sink in self.sinks:
            sink.dataset(dataset)

    def artifact(self, path: Path, folder: str = "") -> None:
        for sink in self.sinks:
            sink.artifact(path, folder)

    def image(self, path: Path, key: str, step: int) -> None:
        for sink in self.sinks:
            sink.image(path, key, step)

    def hurry(self) -> None:
        for sink in self.sinks:
            sink.hurry()

    def close(self) -> None:
        """Close every sink, also when one of them fails; the first failure is raised at the end."""
        failures = []
        for sink in self.sinks:
            try:
                sink.close()
            except Exception as error:
                failures.append(error)
        if failures:
            raise failures[0]
