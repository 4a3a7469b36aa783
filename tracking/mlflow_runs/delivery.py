"""From a spool to a run in MLflow: within MLflow's limits, and past what it refuses."""

from __future__ import annotations

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.schema import TensorDatasetSchema
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.types import Schema, TensorSpec

from tracking.mlflow_runs.answers import is_final, is_returned
from tracking.mlflow_runs.images import log_image
from tracking.mlflow_runs.run import MlflowRun
from tracking.mlflow_runs.set_aside import REFUSED, RETURNED, Request, SetAside
from tracking.reasons import reason
from tracking.spool import SpoolReader

__all__ = ["Delivery"]

T = TypeVar("T")

METRICS_PER_BATCH = 1000
OTHERS_PER_BATCH = 100


class _Refusal(NamedTuple):
    why: str
    final: bool = True
    """By MLflow, for good; otherwise by something on the way."""


class Delivery:
    """Takes what waits in a spool to a run, a stretch of about a megabyte at a time.

    What MLflow refuses for good is set aside, name by name, in ``refused.jsonl`` in the run's
    folder, so that it holds up nothing else; what something on the way refuses, such as a gateway
    with a limit for files, in ``returned.jsonl``. Sending a stretch again, after a process was
    killed in the middle of it, changes nothing in MLflow's SQL stores: points with the same step
    and time are the same points.
    """

    def __init__(self, spool: SpoolReader, run: MlflowRun) -> None:
        self.spool = spool
        self.run = run
        self.refused = SetAside(spool.directory.parent / REFUSED)
        self.returned = SetAside(spool.directory.parent / RETURNED)
        self.last_success = time.monotonic()
        self.sent = 0
        """Requests that have been answered."""
        self._requests: deque[Request] = deque()
        self._end = 0
        self._noted = True

    def send(self, stop: Callable[[], bool] = lambda: False) -> bool:
        """Send the next stretch, or up to where ``stop`` says so; False where nothing waits.

        Raises whatever the client raises where another attempt may help; the next call goes on with
        the request that failed. RecordsUnwritten: what has been sent cannot be noted on the disk.
        """
        if not self._noted:
            self._note()
        if not self._requests:
            entries, self._end = self.spool.read()
            if not entries:
                return False
            self._requests.extend(_requests(entries, self.run.known_params))
        while self._requests:
            if stop():
                return True
            self._send_or_set_aside(self._requests[0])
            self.sent += 1
            self.last_success = time.monotonic()
        self._note()
        return True

    def hand_over(self, names: Iterable[str]) -> None:
        """Send files of the run's folder that the spool does not name. Raises as ``send`` does."""
        self._requests.extend(Request("artifact", [name, ""]) for name in names)
        while self._requests:
            self._send_or_set_aside(self._requests[0])

    def _note(self) -> None:
        self._noted = False
        self.spool.acknowledge(self._end)
        self._noted = True

    def refusals(self) -> str:
        """One line about what MLflow has refused, or nothing."""
        some = str(self.refused)
        kept = self.refused.path.absolute()
        return f"MLflow refused {some}; they are kept in {kept}" if some else ""

    def returns(self) -> str:
        """A few words about what came back on the way, or nothing."""
        some = str(self.returned)
        return f"not MLflow but something before it refused {some}" if some else ""

    def _send_or_set_aside(self, request: Request) -> None:
        refusal = self._send(request)
        self._requests.popleft()
        if refusal is None:
            return
        apart = request.by_name()
        if apart:
            self._requests.extendleft(reversed(apart))
        else:
            (self.refused if refusal.final else self.returned).add(request, refusal.why)

    def _send(self, request: Request) -> _Refusal | None:
        """Send a request; says why it is not taken, where that is no matter of time."""
        if request.kind == "damaged":
            return _Refusal("damaged on disk")
        if request.kind in {"artifact", "image"} and not self._path(request).exists():
            return _Refusal("no such file")
        try:
            try:
                self._call(request)
            except MlflowException as error:
                if error.error_code != "BAD_REQUEST":
                    raise
                # Its SQL store says so too where two runs wrote the same row at once.
                self._call(request)
        except Exception as error:
            if not (is_final(error) or is_returned(error)):
                raise
            # A deleted run refuses everything, until it is restored; a gateway before a server that
            # is away may do so too.
            self.run.check()
            return _Refusal(reason(error), is_final(error))
        return None

    def _call(self, request: Request) -> None:
        client, run_id = self.run.client, self.run.run_id
        match request.kind, request.items:
            case "metrics", points:
                metrics = [Metric(k, v, int(t * 1000), step) for k, v, step, t in points]
                client.log_batch(run_id, metrics=metrics, synchronous=True)
            case "params", pairs:
                client.log_batch(run_id, params=[Param(*pair) for pair in pairs], synchronous=True)
            case "tags", pairs:
                client.log_batch(run_id, tags=[RunTag(*pair) for pair in pairs], synchronous=True)
            case "dataset", [info]:
                client.log_inputs(run_id, [_dataset_input(info)])
            case "artifact", [_, folder]:
                client.log_artifact(run_id, str(self._path(request)), folder or None)
            case "image", [_, name]:
                log_image(client, run_id, self._path(request), name)
            case "finish", [status, seconds]:
                self.run.end(status, seconds)

    def _path(self, request: Request) -> Path:
        """Relative paths begin in the run's folder, which may have been moved since."""
        return self.spool.directory.parent / str(request.items[0])


def _requests(entries: Sequence[Mapping[str, Any]], known: frozenset[str]) -> Iterator[Request]:
    params = {k: v for entry in entries for k, v in entry.get("params", {}).items()}
    new = ((k, v) for k, v in params.items() if k not in known)
    yield from (Request("params", some) for some in _chunks(new, OTHERS_PER_BATCH))
    tags = {k: v for entry in entries for k, v in entry.get("tags", {}).items()}
    yield from (Request("tags", some) for some in _chunks(tags.items(), OTHERS_PER_BATCH))
    yield from (Request("dataset", [entry["dataset"]]) for entry in entries if "dataset" in entry)
    points = (point for entry in entries for point in entry.get("metrics", ()))
    yield from (Request("metrics", some) for some in _chunks(points, METRICS_PER_BATCH))
    for kind in ("artifact", "image", "damaged", "finish"):
        yield from (Request(kind, _listed(entry[kind])) for entry in entries if kind in entry)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    source = iter(items)
    while chunk := list(islice(source, size)):
        yield chunk


def _dataset_input(info: Mapping[str, Any]) -> DatasetInput:
    """MLflow's description of a data set: identity, source, shapes and sizes, but not the data."""
    source = CodeDatasetSource({"source": info["source"]})
    schema = TensorDatasetSchema(
        features=Schema([TensorSpec(np.dtype("uint8"), (-1, *info["image_shape"]))]),
        targets=Schema([TensorSpec(np.dtype("int64"), (-1,))]),
    )
    profile = json.dumps({"images": info["sizes"], "classes": list(info["classes"])})
    shown = json.dumps(schema.to_dict()) + profile
    dataset = Dataset(
        name=info["name"],
        # An experiment has one schema and one profile for a name and digest, those that came first;
        # runs on the same data may differ in image size and splits.
        digest=f"{info['digest']}-{hashlib.sha256(shown.encode()).hexdigest()[:8]}",
        source_type="code",
        source=source.to_json(),
        schema=json.dumps(schema.to_dict()),
        profile=profile,
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])
