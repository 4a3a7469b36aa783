"""From a spool to a run: within MLflow's limits, past what it refuses, and nothing sent twice."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INVALID_PARAMETER_VALUE

from tests.mlflow_stores import artifact_text, found_run, history, sqlite_store
from tracking.errors import RecordsUnwritten
from tracking.mlflow_runs.delivery import Delivery
from tracking.mlflow_runs.run import MlflowRun
from tracking.spool import Spool

__all__: list[str] = []

DATASET = {
    "name": "digits",
    "digest": "d1",
    "source": "scikit-learn",
    "image_shape": [1, 28, 28],
    "classes": ["zero", "one"],
    "sizes": {"train": 5, "valid": 2, "test": 1},
}


class Calls:
    """What reaches the client: the sizes of batches and the names of other calls."""

    def __init__(self, run: MlflowRun, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[str] = []
        self.fail: Callable[[str], Exception | None] = lambda _: None
        for name in ("log_batch", "log_inputs", "log_artifact", "set_terminated"):
            monkeypatch.setattr(run.client, name, self._spy(name, getattr(run.client, name)))

    def _spy(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            sizes = [f"{k} {len(v)}" for k, v in kwargs.items() if k != "synchronous"]
            label = sizes[0] if sizes else name
            error = self.fail(label)
            if error is not None:
                raise error
            self.made.append(label)
            return method(*args, **kwargs)

        return call


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> MlflowRun:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_store())
    return MlflowRun.open("tests")


@pytest.fixture
def calls(run: MlflowRun, monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(run, monkeypatch)


@pytest.fixture
def spool(run: MlflowRun, tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / run.run_id / "spool", {"run_id": run.run_id})
    yield spool
    spool.close()


def points(key: str, count: int) -> dict[str, Any]:
    return {"metrics": [[key, n / 10, n, 1_700_000_000.123 + n] for n in range(count)]}


def deliver(delivery: Delivery) -> None:
    while delivery.send():
        pass
    assert not delivery.spool.waiting


def set_aside(spool: Spool, name: str = "refused.jsonl") -> list[dict[str, Any]]:
    text = (spool.directory.parent / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


# -- what MLflow refuses --


def test_refused_names_hold_up_nothing(run: MlflowRun, spool: Spool) -> None:
    spool.append({"params": {"bad#param": "1", "good": "2"}, "tags": {"fine": "3"}})
    spool.append(points("bad#metric", 3))
    spool.append(points("activations/conv1.relu/mean", 3))
    spool.append({"finish": ["FINISHED", 1_700_000_100.0]})
    delivery = Delivery(spool, run)
    deliver(delivery)
    found = found_run(sqlite_store(), run.run_id)
    assert found.data.params == {"good": "2"}
    assert found.data.tags["fine"] == "3"
    assert found.info.status == "FINISHED"
    assert len(history(sqlite_store(), run.run_id, "activations/conv1.relu/mean")) == 3
    params, metrics = set_aside(spool)
    assert params["params"] == [["bad#param", "1"]]
    assert metrics["metrics"] == points("bad#metric", 3)["metrics"]
    assert "Names may only contain" in metrics["reason"]
    assert delivery.refusals().startswith("MLflow refused 2 records, the first: params 'bad#param'")
    assert "\n" not in delivery.refusals()


def test_changed_parameter_is_refused_alone(run: MlflowRun, spool: Spool) -> None:
    spool.append({"params": {"lr": "0.1", "epochs": "5"}})
    delivery = Delivery(spool, run)
    deliver(delivery)
    spool.append({"params": {"lr": "0.2", "seed": "0"}})
    deliver(delivery)
    params = found_run(sqlite_store(), run.run_id).data.params
    assert params == {"lr": "0.1", "epochs": "5", "seed": "0"}
    assert [line["params"] for line in set_aside(spool)] == [[["lr", "0.2"]]]


def test_file_that_is_gone_and_line_that_is_spoilt(run: MlflowRun, spool: Spool) -> None:
    spool.append({"artifact": ["gone.txt", "texts"]})
    with (spool.directory / "entries.jsonl").open("ab") as file:
        file.write(b"spoilt\n")
    spool.append(points("a", 1))
    delivery = Delivery(spool, run)
    deliver(delivery)
    assert [(line["reason"], list(line)[1]) for line in set_aside(spool)] == [
        ("no such file", "artifact"),
        ("damaged on disk", "damaged"),
    ]
    assert "artifact 'gone.txt' (no such file)" in delivery.refusals()
    assert len(history(sqlite_store(), run.run_id, "a")) == 1


class HttpError(Exception):
    """As the HTTP client raises it when an artifact is uploaded."""

    def __init__(self, status: int, text: str = "<html>") -> None:
        super().__init__(f"{status} for you")
        self.response = type("Response", (), {"status_code": status, "text": text})()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('{"error_code": "INVALID_PARAMETER_VALUE"}', "refused.jsonl"),
        # Of a gateway with a limit, which may be raised.
        ("<html>", "returned.jsonl"),
        ("[]", "returned.jsonl"),
    ],
)
def test_artifact_that_is_not_taken_is_set_aside(
    run: MlflowRun, spool: Spool, calls: Calls, text: str, kept: str
) -> None:
    (spool.directory.parent / "a.txt").write_text("hello")
    spool.append({"artifact": ["a.txt", ""]})
    calls.fail = lambda label: HttpError(413, text) if label == "log_artifact" else None
    deliver(Delivery(spool, run))
    assert set_aside(spool, kept) == [{"reason": "413 for you", "artifact": ["a.txt", ""]}]


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
def test_artifact_that_may_be_taken_later_waits(
    status: int, run: MlflowRun, spool: Spool, calls: Calls
) -> None:
    (spool.directory.parent / "a.txt").write_text("hello")
    spool.append({"artifact": ["a.txt", ""]})
    calls.fail = lambda label: HttpError(status) if label == "log_artifact" else None
    delivery = Delivery(spool, run)
    with pytest.raises(HttpError):
        delivery.send()
    assert spool.waiting
    assert delivery.refusals() == ""
    calls.fail = lambda _: None
    deliver(delivery)
    assert artifact_text(sqlite_store(), run.run_id, "a.txt") == "hello"


def test_deleted_run_refuses_nothing_for_good(run: MlflowRun, spool: Spool) -> None:
    spool.append(points("a", 1))
    run.client.delete_run(run.run_id)
    delivery = Delivery(spool, run)
    with pytest.raises(MlflowException, match="has been deleted in MLflow; restore it"):
        delivery.send()
    run.client.restore_run(run.run_id)
    deliver(delivery)
    assert len(history(sqlite_store(), run.run_id, "a")) == 1
    assert delivery.refusals() == ""


# -- attempts --


def test_next_attempt_goes_on_where_the_last_one_failed(
    run: MlflowRun, spool: Spool, calls: Calls
) -> None:
    spool.append(points("a", 2500))
    spool.append({"finish": ["FINISHED", 1.0]})
    calls.fail = lambda label: OSError("away") if label == "metrics 500" else None
    delivery = Delivery(spool, run)
    for _ in range(2):
        with pytest.raises(OSError, match="away"):
            delivery.send()
    assert calls.made == ["metrics 1000", "metrics 1000"]
    assert found_run(sqlite_store(), run.run_id).info.status == "RUNNING"
    calls.fail = lambda _: None
    deliver(delivery)
    assert calls.made == ["metrics 1000", "metrics 1000", "metrics 500", "set_terminated"]


def test_what_cannot_be_noted_is_not_sent_again_and_no_success(
    run: MlflowRun, spool: Spool, calls: Calls
) -> None:
    spool.append(points("a", 10))
    unwritable = spool.directory / "acknowledged.tmp"
    unwritable.mkdir()
    delivery = Delivery(spool, run)
    with pytest.raises(RecordsUnwritten):
        delivery.send()
    last = delivery.last_success
    for _ in range(2):
        with pytest.raises(RecordsUnwritten):
            delivery.send()
    assert (calls.made, delivery.last_success) == (["metrics 10"], last)
    assert spool.waiting
    unwritable.rmdir()
    assert not delivery.send()
    assert calls.made == ["metrics 10"]
    assert not spool.waiting


def test_sending_all_of_it_again_changes_nothing(run: MlflowRun, spool: Spool) -> None:
    (spool.directory.parent / "a.txt").write_text("hello")
    spool.append({"params": {"lr": "0.1"}, "tags": {"t": "1"}, "dataset": DATASET})
    spool.append(points("a", 1500))
    spool.append({"metrics": [["nan", math.nan, 0, 5.0], ["inf", math.inf, 0, 5.0]]})
    spool.append({"artifact": ["a.txt", ""]})
    deliver(Delivery(spool, run))
    before = found_run(sqlite_store(), run.run_id).to_dictionary()
    spool.acknowledge(0)
    again = Delivery(spool, MlflowRun.find(sqlite_store(), run.run_id))
    deliver(again)
    after = found_run(sqlite_store(), run.run_id).to_dictionary()
    assert str(after) == str(before)
    assert len(history(sqlite_store(), run.run_id, "a")) == 1500
    assert len(history(sqlite_store(), run.run_id, "nan")) == 1
    assert again.refusals() == ""


def test_entries_without_anything_in_them_are_acknowledged(
    run: MlflowRun, spool: Spool, calls: Calls
) -> None:
    spool.append({"params": {}})
    spool.append({"tags": {}})
    spool.append({"metrics": []})
    deliver(Delivery(spool, run))
    assert calls.made == []


# -- what arrives --


def test_batches_stay_within_the_limits(run: MlflowRun, spool: Spool, calls: Calls) -> None:
    spool.append({"params": {f"p{n}": str(n) for n in range(150)}})
    spool.append({"params": {f"q{n}": str(n) for n in range(100)}})
    spool.append({"tags": {f"t{n}": str(n) for n in range(101)}})
    for key in ("a", "b", "c"):
        spool.append(points(key, 700))
    deliver(Delivery(spool, run))
    assert calls.made == [
        *("params 100", "params 100", "params 50", "tags 100", "tags 1"),
        *("metrics 1000", "metrics 1000", "metrics 100"),
    ]
    found = found_run(sqlite_store(), run.run_id)
    assert len(found.data.params) == 250
    assert all(found.data.tags[f"t{n}"] == str(n) for n in range(101))


def test_values_steps_and_times(run: MlflowRun, spool: Spool) -> None:
    spool.append(points("activations/conv1.relu/mean", 1200))
    deliver(Delivery(spool, run))
    expected = [(n / 10, n, 1_700_000_000_123 + 1000 * n) for n in range(1200)]
    assert history(sqlite_store(), run.run_id, "activations/conv1.relu/mean") == expected


def test_nan_and_infinities_arrive_as_mlflow_keeps_them(run: MlflowRun, spool: Spool) -> None:
    largest = 1.7976931348623157e308
    values = [math.nan, math.inf, -math.inf, 0.5]
    spool.append({"metrics": [["loss", v, n, 5.0] for n, v in enumerate(values)]})
    deliver(Delivery(spool, run))
    by_step = {step: v for v, step, _ in history(sqlite_store(), run.run_id, "loss")}
    assert math.isnan(by_step[0])
    assert [by_step[n] for n in (1, 2, 3)] == [largest, -largest, 0.5]


def test_asynchronous_logging_of_mlflow_is_not_used(
    run: MlflowRun, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its queue lives in memory and drops what fails, after it was acknowledged here.
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_LOGGING", "true")
    spool.append(points("a", 1) | {"params": {"p": "1"}, "tags": {"t": "1"}})
    deliver(Delivery(spool, run))
    found = found_run(sqlite_store(), run.run_id)
    assert (found.data.metrics, found.data.params) == ({"a": 0.0}, {"p": "1"})


def test_tag_keeps_its_last_value(run: MlflowRun, spool: Spool) -> None:
    for state in ("running", "finished"):
        spool.append({"tags": {"layerscope.state": state}})
    deliver(Delivery(spool, run))
    tags = found_run(sqlite_store(), run.run_id).data.tags
    assert tags["layerscope.state"] == "finished"


def test_dataset_stands_on_the_run(run: MlflowRun, spool: Spool) -> None:
    spool.append({"dataset": DATASET})
    deliver(Delivery(spool, run))
    (entry,) = found_run(sqlite_store(), run.run_id).inputs.dataset_inputs
    assert entry.dataset.name == "digits"
    assert re.fullmatch(r"d1-[0-9a-f]{8}", entry.dataset.digest)
    assert {tag.key: tag.value for tag in entry.tags} == {"mlflow.data.context": "training"}
    assert json.loads(entry.dataset.profile) == {
        "images": {"train": 5, "valid": 2, "test": 1},
        "classes": ["zero", "one"],
    }
    schema = json.loads(entry.dataset.schema)["mlflow_tensorspec"]
    (features,), (targets,) = json.loads(schema["features"]), json.loads(schema["targets"])
    assert features["tensor-spec"] == {"dtype": "uint8", "shape": [-1, 1, 28, 28]}
    assert targets["tensor-spec"] == {"dtype": "int64", "shape": [-1]}


def test_same_data_in_other_splits_has_its_own_profile(run: MlflowRun, spool: Spool) -> None:
    for count in (5, 4, 5):
        spool.append({"dataset": DATASET | {"sizes": {"train": count}}})
    deliver(Delivery(spool, run))
    entries = found_run(sqlite_store(), run.run_id).inputs.dataset_inputs
    counts = [json.loads(entry.dataset.profile)["images"]["train"] for entry in entries]
    assert sorted(counts) == [4, 5]
    assert {entry.dataset.digest.partition("-")[0] for entry in entries} == {"d1"}


def test_artifacts_files_and_folders(run: MlflowRun, spool: Spool, tmp_path: Path) -> None:
    inside, outside = spool.directory.parent / "model", tmp_path / "outside.txt"
    inside.mkdir()
    (inside / "weights.txt").write_text("1 2 3")
    outside.write_text("hello")
    spool.append({"artifact": ["model", ""]})
    spool.append({"artifact": [str(outside), "deep/folder"]})
    deliver(Delivery(spool, run))
    text = artifact_text(sqlite_store(), run.run_id, "model/weights.txt")
    assert text == "1 2 3"
    assert artifact_text(sqlite_store(), run.run_id, "deep/folder/outside.txt") == "hello"


def test_refusal_is_what_mlflow_says_it_is(run: MlflowRun, spool: Spool, calls: Calls) -> None:
    error = MlflowException("no\nnever", error_code=INVALID_PARAMETER_VALUE)
    calls.fail = lambda label: error if label == "set_terminated" else None
    spool.append({"finish": ["FINISHED", 1.0]})
    deliver(Delivery(spool, run))
    assert set_aside(spool) == [{"reason": "no", "finish": ["FINISHED", 1.0]}]


@pytest.mark.parametrize("times", [1, 2])
def test_two_writers_at_once_are_not_a_refusal(
    run: MlflowRun, spool: Spool, calls: Calls, times: int
) -> None:
    errors = [MlflowException("UNIQUE constraint failed", error_code=BAD_REQUEST)] * times
    calls.fail = lambda _label: errors.pop() if errors else None
    spool.append({"tags": {"a": "1"}})
    delivery = Delivery(spool, run)
    deliver(delivery)
    if times == 1:
        assert found_run(sqlite_store(), run.run_id).data.tags["a"] == "1"
        assert not delivery.refusals()
    else:  # one that comes again is
        assert set_aside(spool) == [{"reason": "UNIQUE constraint failed", "tags": [["a", "1"]]}]


def test_it_stops_between_two_requests(run: MlflowRun, spool: Spool, calls: Calls) -> None:
    spool.append({"params": {"p": "1"}, "tags": {"t": "1"}})
    spool.append({"finish": ["FINISHED", 1.0]})
    delivery = Delivery(spool, run)
    for made in (["params 1"], ["params 1", "tags 1"]):
        assert delivery.send(stop=lambda made=made: calls.made == made)  # type: ignore[misc]
        assert calls.made == made
        assert spool.waiting
    deliver(delivery)
    assert calls.made == ["params 1", "tags 1", "set_terminated"]
