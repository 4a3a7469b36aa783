"""Pictures with a step: named once, sent as often as it takes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from PIL import Image

from tests.mlflow_stores import found_run, sqlite_store
from tracking.mlflow_runs.images import image_name, log_image
from tracking.mlflow_runs.run import MlflowRun

__all__: list[str] = []


@pytest.mark.parametrize(
    ("key", "expected"),
    [("color_dim", "color_dim"), ("a/b.c d-e", "a~b.c d-e"), ("../<ä>+%", "..~_____")],
)
def test_names_are_those_that_the_page_reads(key: str, expected: str) -> None:
    name = image_name(key, 40)
    assert re.fullmatch(r".*\+step\+40\+timestamp\+\d{13}\+[0-9a-f-]{36}", name)
    assert name.partition("+")[0] == expected
    assert name != image_name(key, 40)


def test_a_picture_sent_twice_is_there_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_store())
    run = MlflowRun.open("tests")
    pixels = np.zeros((40, 900, 4), np.uint8)
    pixels[:, 450:] = 255
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    name = image_name("color_dim", 5)
    for _ in range(2):
        log_image(run.client, run.run_id, tmp_path / "picture.png", name)
    files = sorted(file.path for file in run.client.list_artifacts(run.run_id, "images"))
    assert files == [f"images/{name}+compressed.webp", f"images/{name}.png"]
    # What MLflow's own log_image sets, and its page looks for.
    assert found_run(sqlite_store(), run.run_id).data.tags["mlflow.loggedImages"] == "True"
    for file, size in zip(files, [(1200, 53), (900, 40)], strict=True):
        path = download_artifacts(
            run_id=run.run_id, artifact_path=file, tracking_uri=sqlite_store(), dst_path=tmp_path
        )
        with Image.open(path) as image:
            assert image.size == size


def test_names_are_like_those_of_mlflow_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_store())
    run = MlflowRun.open("tests")
    client = MlflowClient(sqlite_store())
    client.log_image(run.run_id, np.zeros((4, 4), np.uint8), key="a/b", step=3, synchronous=True)
    theirs = {Path(f.path).name for f in client.list_artifacts(run.run_id, "images")}
    shape = re.compile(r"\d{13}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
    ours = {f"{image_name('a/b', 3)}{end}" for end in (".png", "+compressed.webp")}
    assert {shape.sub("*", name) for name in theirs} == {shape.sub("*", name) for name in ours}
