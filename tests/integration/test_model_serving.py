"""The logged model: loaded, served by a real process, and waiting while the store is away."""

from __future__ import annotations

import json
import os
import signal
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import numpy.typing as npt
import pytest
import torch

from pipelines.config import RunConfig
from pipelines.run import prepare
from pipelines.serving import ServingModel, serving_model
from tests.mlflow_stores import found_run
from tracking.mlflow_runs.session import tracked_run

__all__: list[str] = []

Images = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def model() -> tuple[ServingModel, Images]:
    """An untrained network as `layerscope train` logs it, with its example."""
    setup = prepare(RunConfig(train_limit=100))
    return serving_model(setup.model, setup.data)


def images(count: int) -> Images:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 1, 28, 28)).astype(np.float32)


def probabilities(model: ServingModel, given: Images) -> npt.NDArray[Any]:
    with torch.no_grad():
        return model(torch.from_numpy(given)).numpy()


def predicts(uri: str, model: ServingModel, *counts: int) -> None:
    loaded = mlflow.pyfunc.load_model(uri)
    for count in counts:
        given = images(count)
        answer = loaded.predict(given)
        assert answer.shape == (count, 10)
        np.testing.assert_allclose(answer, probabilities(model, given), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_model_is_logged_loaded_and_served(
    server: Any, served: Any, model: tuple[ServingModel, Images]
) -> None:
    with tracked_run("tests") as tracked:
        version = tracked.log_model(lambda: model, register="digits net")
    uri = f"runs:/{tracked.run.run_id}/model"
    info = mlflow.models.get_model_info(uri)
    assert info.signature is not None
    assert [(i.type, i.shape) for i in info.signature.inputs] == [
        (np.dtype("float32"), (-1, 1, 28, 28))
    ]
    assert [o.shape for o in info.signature.outputs] == [(-1, 10)]
    assert info.saved_input_example_info is not None
    assert found_run(server.url, tracked.run.run_id).outputs.model_outputs
    predicts(uri, model[0], 1, 2, 7)
    assert version == 1
    predicts("models:/digits net/1", model[0], 3)

    url = served(uri)
    for count in (1, 7):
        given = images(count)
        answer = invoked(url, {"inputs": given.tolist()})
        expected = probabilities(model[0], given)
        np.testing.assert_allclose(answer["predictions"], expected, rtol=1e-4, atol=1e-6)


def test_model_waits_while_the_store_is_away(
    server: Any,
    model: tuple[ServingModel, Images],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with tracked_run("tests") as tracked:
        server.signal(signal.SIGSTOP)
        version = tracked.log_model(lambda: model, register="waiting")
        server.signal(signal.SIGCONT)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    assert "the model waits with the records (no answer in time)" in caplog.text
    uri = f"runs:/{tracked.run.run_id}/model"
    predicts(uri, model[0], 3)

    # Then it was not to be registered; the warning says how to do it now.
    assert version is None
    assert f"mlflow.register_model({uri!r}, 'waiting')" in caplog.text
    assert int(mlflow.register_model(uri, "waiting").version) == 1
    predicts("models:/waiting/1", model[0], 3)


@pytest.fixture
def served(processes: Any, tmp_path: Path) -> Iterator[Any]:
    """Serves models by `mlflow models serve`; the processes end with the test."""
    started = []

    def serve(uri: str) -> str:
        command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", uri]
        command += ["--env-manager", "local", "--host", "127.0.0.1"]
        # Nothing of this project is needed, or to be found there.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        started.append(processes(command, tmp_path / "serving.txt", environment))
        started[-1].start()
        return str(started[-1].url)

    yield serve
    for process in started:
        process.kill()


def invoked(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{url}/invocations",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        content: dict[str, Any] = json.load(answer)
        return content
