"""One run in an MLflow tracking store: opening it, and delivering what a spool holds for it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.schema import TensorDatasetSchema
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.types import Schema, TensorSpec

from tracking.errors import BadTracking

__all__ = ["MlflowRun", "masked"]

T = TypeVar("T")

METRICS_PER_BATCH = 1000
OTHERS_PER_BATCH = 100
# Answers that another attempt will not change.
FINAL = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}


class MlflowRun:
    """One run in a tracking store, addressed by its id; there is no global active run."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client = client
        self.run_id = run_id
        # `mlflow run` logs an entry point's parameters itself, as the text that was given: 1e-2
        # there and 0.01 here would be a change of value, which MLflow refuses.
        run = client.get_run(run_id)
        self._known_params = set(run.data.params)
        self.experiment_id = str(run.info.experiment_id)

    @classmethod
    def open(cls, experiment: str, name: str = "") -> MlflowRun:
        """The run that `mlflow run` has begun for this process, or a new one.

        The store is MLflow's own choice: MLFLOW_TRACKING_URI, or sqlite:///mlflow.db.
        Raises BadTracking: the store cannot be reached or used.
        """
        uri = mlflow.get_tracking_uri()
        # MLflow's seven attempts take minutes; the sink has attempts of its own.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        try:
            client = MlflowClient(uri)
            begun = os.environ.get("MLFLOW_RUN_ID")
            if begun:
                return cls(client, begun)
            run = client.create_run(_experiment_id(client, experiment), run_name=name or None)
            return cls(client, run.info.run_id)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BadTracking(f"MLflow store {masked(uri)}: cannot be used ({reason})") from None

    @property
    def tracking_uri(self) -> str:
        return str(self.client.tracking_uri)

    def deliver(self, entries: Sequence[Mapping[str, Any]]) -> list[str]:
        """Send entries of a spool; returns a line for each batch that MLflow refuses for good.

        Raises whatever the client raises where another attempt may help.
        """
        refused = []
        for send in self._calls(entries):
            try:
                send()
            except MlflowException as error:
                if error.error_code not in FINAL:
                    raise
                refused.append(str(error).splitlines()[0])
        return refused

    def _calls(self, entries: Sequence[Mapping[str, Any]]) -> Iterator[Callable[[], Any]]:
        log_batch = partial(self.client.log_batch, self.run_id)
        metrics = (point for entry in entries for point in entry.get("metrics", ()))
        for points in _chunks((_metric(*point) for point in metrics), METRICS_PER_BATCH):
            yield partial(log_batch, metrics=points)
        params = {k: v for entry in entries for k, v in entry.get("params", {}).items()}
        new = (Param(k, v) for k, v in params.items() if k not in self._known_params)
        for chunk in _chunks(new, OTHERS_PER_BATCH):
            yield partial(log_batch, params=chunk)
        tags = {k: v for entry in entries for k, v in entry.get("tags", {}).items()}
        for some in _chunks((RunTag(k, v) for k, v in tags.items()), OTHERS_PER_BATCH):
            yield partial(log_batch, tags=some)
        for dataset in (entry["dataset"] for entry in entries if "dataset" in entry):
            yield partial(self.client.log_inputs, self.run_id, [_dataset_input(dataset)])
        for path, folder in (entry["artifact"] for entry in entries if "artifact" in entry):
            yield partial(self.client.log_artifact, self.run_id, path, folder or None)
        for status in (entry["finish"] for entry in entries if "finish" in entry):
            yield partial(self.client.set_terminated, self.run_id, status)


def masked(uri: str) -> str:
    """A URI without the password in it."""
    scheme, separator, rest = uri.partition("://")
    credentials, at, host = rest.rpartition("@")
    if not at:
        return uri
    return f"{scheme}{separator}{credentials.partition(':')[0]}:***@{host}"


def _experiment_id(client: MlflowClient, name: str) -> str:
    given = os.environ.get("MLFLOW_EXPERIMENT_ID")
    if given and name == "Default":
        return given
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name))


def _metric(key: str, value: float, step: int, time: float) -> Metric:
    return Metric(key, value, int(time * 1000), step)


def _dataset_input(info: Mapping[str, Any]) -> DatasetInput:
    """MLflow's description of a data set: identity, source, shapes and sizes, but not the data."""
    source = CodeDatasetSource({"source": info["source"]})
    schema = TensorDatasetSchema(
        features=Schema([TensorSpec(np.dtype("uint8"), (-1, *info["image_shape"]))]),
        targets=Schema([TensorSpec(np.dtype("int64"), (-1,))]),
    )
    dataset = Dataset(
        name=info["name"],
        digest=info["digest"],
        source_type="code",
        source=source.to_json(),
        schema=json.dumps({"mlflow_tensorspec": schema.to_dict()}),
        profile=json.dumps({"images": info["sizes"], "classes": list(info["classes"])}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    source = iter(items)
    while chunk := list(islice(source, size)):
        yield chunk
