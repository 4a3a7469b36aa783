"""Registered models: versions, what they load as, and registrations that cannot be made."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from torch import nn

from tests.mlflow_stores import found_run, sqlite_store
from tracking.mlflow_runs import model as mlflow_model
from tracking.mlflow_runs.model import register_model
from tracking.mlflow_runs.model_names import check_model_name
from tracking.mlflow_runs.run import MlflowRun
from tracking.mlflow_runs.session import TrackedRun, tracked_run

__all__: list[str] = []

EXAMPLE = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture(autouse=True)
def _work_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_store())
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def client() -> MlflowClient:
    return MlflowClient(sqlite_store())


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval()


def unused(kind: str = "net") -> str:
    """A name that no model of this process's store has."""
    return f"{kind} {uuid4().hex[:8]}"


def logged(model: nn.Module, register: str = "") -> tuple[TrackedRun, int | None]:
    with tracked_run("tests") as tracked:
        version = tracked.log_model(lambda: (model, EXAMPLE), register)
    return tracked, version


def versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    found = client.search_model_versions(f"name='{name}'")
    return sorted(found, key=lambda one: int(one.version))


# -- registered --


def test_each_registration_is_the_next_version_and_loads_as_its_own_model(
    client: MlflowClient,
) -> None:
    name = unused()
    models = [net(1), net(2)]
    runs, made = zip(*(logged(model, name) for model in models), strict=True)
    assert made == (1, 2)
    assert [v.run_id for v in versions(client, name)] == [run.run.run_id for run in runs]
    for model, version in zip(models, made, strict=True):
        uri = f"models:/{name}/{version}"
        expected = model(torch.from_numpy(EXAMPLE)).detach().numpy()
        loaded = mlflow.pyfunc.load_model(uri).predict(EXAMPLE)
        np.testing.assert_allclose(loaded, expected, rtol=1e-6)
        again = loaded_pytorch(uri)(torch.from_numpy(EXAMPLE)).detach().numpy()
        np.testing.assert_allclose(again, expected, rtol=1e-6)


def loaded_pytorch(uri: str) -> Callable[[torch.Tensor], torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow's and torch's own making
        loaded: Callable[[torch.Tensor], torch.Tensor] = mlflow.pytorch.load_model(uri)
    return loaded


def test_version_and_logged_model_know_each_other(client: MlflowClient) -> None:
    name = unused()
    tracked, _ = logged(net(), name)
    (version,) = versions(client, name)
    (output,) = found_run(sqlite_store(), tracked.run.run_id).outputs.model_outputs
    assert (version.run_id, version.source) == (
        tracked.run.run_id,
        f"models:/{output.model_id}",
    )
    tags = client.get_logged_model(output.model_id).tags
    assert json.loads(tags["mlflow.modelVersions"]) == [{"name": name, "version": 1}]


def test_nothing_is_registered_unless_asked_for(client: MlflowClient) -> None:
    before = len(client.search_registered_models())
    _, version = logged(net())
    assert version is None
    assert len(client.search_registered_models()) == before


@pytest.mark.parametrize("name", ["a#b@c", "é and more", "100%25", "1", "x" * 256])
def test_names_that_are_allowed_can_be_registered_and_loaded(name: str) -> None:
    check_model_name(name)
    _, version = logged(net(), name)
    assert mlflow.pyfunc.load_model(f"models:/{name}/{version}").predict(EXAMPLE).shape == (2, 3)


# -- at the same time --


def test_all_who_register_at_the_same_time_get_a_version(client: MlflowClient) -> None:
    name = unused()
    tracked, _ = logged(net())
    (output,) = found_run(sqlite_store(), tracked.run.run_id).outputs.model_outputs
    together = threading.Barrier(4, timeout=60)

    def register(_: int) -> int:
        run = MlflowRun.find(sqlite_store(), tracked.run.run_id)
        together.wait()
        return register_model(run, output.model_id, name)

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(register, range(4))) == [1, 2, 3, 4]
    assert len(versions(client, name)) == 4


# -- not registered --


def refused(caplog: pytest.LogCaptureFixture, name: str) -> str:
    tracked, version = logged(net(), name)
    assert version is None
    run = found_run(sqlite_store(), tracked.run.run_id)
    assert run.info.status == "FINISHED"
    assert run.outputs.model_outputs
    (message,) = [r.getMessage() for r in caplog.records if r.name == "layerscope"]
    uri = f"runs:/{tracked.run.run_id}/model"
    assert message.startswith(f"the model is not registered as {name} (")
    assert message.endswith(f"; to do it later: mlflow.register_model({uri!r}, {name!r})")
    return message


def test_store_without_a_registry_costs_no_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "nowhere://at-all")
    assert "not supported by the store with URI: 'nowhere://at-all'" in refused(caplog, unused())


def test_registry_that_fails_costs_no_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: object, **__: object) -> None:
        raise MlflowException("gone\nfor lunch") from ConnectionRefusedError(111, "refused")

    monkeypatch.setattr(MlflowClient, "create_model_version", away)
    assert "(refused)" in refused(caplog, unused())


def test_name_of_a_prompt_is_left_to_the_prompt(
    client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    name = unused("prompt").replace(" ", "-")
    client.register_prompt(name, "Say {{word}}.")
    assert "already taken by a prompt" in refused(caplog, name)
    assert [int(v.version) for v in client.search_prompt_versions(name)] == [1]


def test_version_stands_where_its_model_cannot_be_tagged(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MlflowException("no")

    monkeypatch.setattr(MlflowClient, "set_logged_model_tags", refuse)
    name = unused()
    assert logged(net(), name)[1] == 1
    assert len(versions(client, name)) == 1
    assert "not registered" not in caplog.text


def test_model_that_cannot_be_exported_is_not_registered(
    client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if float(x.sum()) > 0 else -x

    name = unused()
    assert logged(Branches().eval(), name)[1] is None
    assert "the run has no model" in caplog.text
    assert "registered" not in caplog.text
    assert versions(client, name) == []


@pytest.mark.parametrize("places", [1, 2])
def test_where_there_is_no_room_for_its_file_it_is_not_tried(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, places: int
) -> None:
    full = iter([10, 10 if places == 2 else 10**9, 10**9])
    monkeypatch.setattr(
        mlflow_model.shutil, "disk_usage", lambda _: SimpleNamespace(free=next(full))
    )
    tracked, version = logged(net())
    assert version is None
    if places == 2:
        assert "the run has no model: it cannot be exported" in caplog.text
        assert "no room for a file of 4 MB" in caplog.text
    else:
        assert "the model waits with the records" in caplog.text
        files = tracked.run.client.list_artifacts(tracked.run.run_id)
        assert "model" in [item.path for item in files]
