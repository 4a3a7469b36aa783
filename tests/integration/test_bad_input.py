"""Bad input through the real command: one line, exit code 2, no run; and runs that end badly."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run
from PIL import Image

import layerscope
from tests.mlflow_stores import history, names_in, sqlite_store

__all__: list[str] = []

Command = Callable[..., tuple[int, str, str]]
SCRIPT = str(Path(layerscope.__file__).resolve())
PATIENCE = 300.0
SMALL = [
    *("--train-limit", "60", "--batch-size", "16", "--image-size", "16", "--widths", "4"),
    *("--device", "cpu", "--log-model", "false", "--experiment", "tests"),
]

FACTORIES = """
import numpy as np
from torch import nn

def five(image_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(5))

def images():
    return "no images"

raise_here = None
"""


def runs() -> dict[str, Run]:
    """Every run in the store."""
    client = MlflowClient(sqlite_store())
    experiments = [e.experiment_id for e in client.search_experiments()]
    return {run.info.run_id: run for run in client.search_runs(experiments, max_results=1000)}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of one's own to work in, with data, models and a store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAYERSCOPE_RECORDS", str(tmp_path / "records"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_store())
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "bad_factories.py").write_text(FACTORIES, encoding="utf-8")
    (tmp_path / "broken_module.py").write_text("import nothing_of_the_kind", encoding="utf-8")
    (tmp_path / "a_file").write_text("", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    folder(tmp_path / "one_class", ["cats"])
    folder(tmp_path / "no_images", ["cats", "dogs"], count=0)
    folder(tmp_path / "spoilt", ["cats", "dogs"])
    (tmp_path / "spoilt" / "dogs" / "3.png").write_bytes(b"no picture")
    folder(tmp_path / "tiny", ["cats", "dogs"], size=4)
    (tmp_path / "typo.yaml").write_text("lr_maxx: 0.1", encoding="utf-8")
    (tmp_path / "broken.yaml").write_text("lr_max: [", encoding="utf-8")
    yield tmp_path
    for name in ("bad_factories", "broken_module"):
        sys.modules.pop(name, None)


def folder(path: Path, classes: list[str], count: int = 8, size: int = 16) -> None:
    for name in classes:
        (path / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.full((size, size), 30 * index, dtype=np.uint8)
            content = BytesIO()
            Image.fromarray(pixels).save(content, "PNG")
            (path / name / f"{index}.png").write_bytes(content.getvalue())


@pytest.fixture
def command(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """Runs the command in this process: exit code, and all that is written to the two streams."""
    handler, level = signal.getsignal(signal.SIGTERM), logging.getLogger("layerscope").level

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["layerscope", *arguments])
        capfd.readouterr()
        code = 0
        try:
            layerscope.main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    yield run
    signal.signal(signal.SIGTERM, handler)
    logging.getLogger("layerscope").setLevel(level)


BAD_INPUT = [
    ("unknown dataset", "--dataset digitz", "dataset=digitz: allowed: digits, "),
    ("unknown model", "--model resnet", "model=resnet: allowed: simple_cnn, "),
    ("unknown torchvision model", "--model torchvision:resnet_18", "Did you mean 'resnet18'?"),
    ("unknown schedule", "--schedule one-cycle", "schedule=one-cycle: input should be 'one_cycle'"),
    ("empty folder", "--dataset folder:empty", "folder empty: has no sub-folders; expected one"),
    ("missing folder", "--dataset folder:none", "folder none: does not exist; give folder:PATH"),
    ("no folder at all", "--dataset folder:a_file", "folder a_file: is a file; expected"),
    ("folders without images", "--dataset folder:no_images", "no_images/cats: holds no images"),
    ("one class", "--dataset folder:one_class", "has one class, 'cats'; at least 2 are needed"),
    ("unreadable image", "--dataset folder:spoilt", "image spoilt/dogs/3.png: cannot be read"),
    ("batch too large", "--batch-size 5000", "batch_size=5000 is larger than the training split"),
    ("batch over the limit", "--train-limit 10", "batch_size=64 is larger than the training split"),
    ("lr 0", "--lr-max 0", "lr_max=0: input should be greater than 0"),
    ("lr below 0", "--lr_max -0.1", "lr_max=-0.1: input should be greater than 0"),
    ("lr nan", "--lr_max nan", "lr_max=nan: input should be a finite number"),
    ("momentum 1", "--momentum-max 1", "momentum_max=1: input should be less than 1"),
    ("pct_start 0", "--pct-start 0", "pct_start=0: input should be greater than 0"),
    ("pct_start 1", "--pct-start 1", "pct_start=1: input should be less than 1"),
    ("epochs 0", "--epochs 0", "epochs=0: input should be greater than or equal to 1"),
    ("no module", "--model none.such:make", "none.such:make: none.such cannot be imported"),
    ("broken module", "--model broken_module:make", "broken_module cannot be imported"),
    ("no factory", "--model bad_factories:fife", "has no 'fife'. Did you mean 'five'?"),
    ("no callable", "--model bad_factories:raise_here", "expected a callable"),
    ("data factory", "--dataset bad_factories:images", "bad_factories:images"),
    ("no data module", "--dataset none.such:make", "none.such cannot be imported"),
    ("classes", "--model bad_factories:five", "gives (2, 5) for 2 images in evaluation mode"),
    ("data_dir", "--dataset kmnist --data-dir a_file/in", "data_dir=a_file/in cannot be written"),
    ("image size", "--image-size 8", "images of 8x8 are too small for 4 halvings"),
    ("tiny images", "--dataset folder:tiny --batch-size 2", "images of 4x4 are too small"),
    ("tiny for vgg", "--model torchvision:alexnet", "cannot take images of 1x28x28"),
    ("batch of one", "--batch-size 1", "cannot train on images of 1x28x28 in batches of 1"),
    ("device", "--device tpu", "device=tpu: not usable here"),
    ("layers", "--layers conv9", "layers=conv9: matches no module of the model; it has: "),
    ("pattern", "--layers conv(", "layers=conv(: not a regular expression"),
    ("every", "--every 0", "every=0: allowed: a whole number from 1, or auto:SHARE"),
    ("flag", "--lrmax 1", "No such option '--lrmax'"),
    ("no value", "--lr-max", "Option '--lr-max' requires an argument"),
    ("config typo", "--config typo.yaml", "unknown option 'lr_maxx'. Did you mean 'lr_max'?"),
    ("config broken", "--config broken.yaml", "config broken.yaml: cannot be read"),
    ("config missing", "--config none.yaml", "config none.yaml: cannot be read"),
]


@pytest.mark.parametrize(
    ("line", "message"), [case[1:] for case in BAD_INPUT], ids=[case[0] for case in BAD_INPUT]
)
def test_one_line_exit_code_2_and_no_run(
    command: Command, place: Path, line: str, message: str
) -> None:
    before = runs().keys()
    code, out, err = command("train", *line.split())
    assert code == 2
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
    assert runs().keys() == before
    assert not (place / "records").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--lr-steps 3", "lr_steps=3: input should be greater than or equal to 10"),
        ("--lr-start 1 --lr-end 0.1", "lr_start=1.0 must be below lr_end=0.1"),
        ("--dataset folder:none", "folder none: does not exist"),
        ("--batch-size 5000", "batch_size=5000 is larger than"),
    ],
)
def test_the_range_test_refuses_alike(command: Command, line: str, message: str) -> None:
    before = runs().keys()
    code, out, err = command("lr-find", *line.split())
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert runs().keys() == before


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MLFLOW_TRACKING_URI", "sqlite:////proc/none/mlflow.db", "cannot be used"),
        ("MLFLOW_TRACKING_URI", "gopher://here", "cannot be used"),
        ("LAYERSCOPE_RECORDS", "a_file/records", "a_file/records"),
    ],
)
def test_a_store_that_cannot_be_used_is_bad_input(
    command: Command, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    before = runs().keys()
    monkeypatch.setenv(name, value)
    code, _, err = command("train", *SMALL)
    assert code == 2
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert runs().keys() == before


@pytest.mark.slow
def test_nothing_else_is_written_by_the_libraries(place: Path) -> None:
    """In a process of its own, where every library is loaded for the first time."""
    result = subprocess.run(
        [sys.executable, SCRIPT, "train", "--dataset", "folder:spoilt"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{place}/fresh.db"},
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: image spoilt/dogs/3.png: cannot be read (")
    assert result.stderr.count("\n") == 1
    assert not {"fresh.db", "mlruns", "records"} & set(names_in(place))


# -- runs that end badly --


def the_run_since(before: dict[str, Run]) -> Run:
    (run,) = [run for run_id, run in runs().items() if run_id not in before]
    return run


def table(run: Run, path: str, folder: Path) -> pa.Table:
    destination = folder / run.info.run_id
    destination.mkdir(exist_ok=True)
    return pq.read_table(
        download_artifacts(
            run_id=run.info.run_id,
            artifact_path=path,
            tracking_uri=sqlite_store(),
            dst_path=str(destination),
        )
    )


def test_a_loss_that_becomes_nan(command: Command, place: Path) -> None:
    before = runs()
    diverging = ["--optimizer", "sgd", "--norm", "none", "--lr-max", "1e30", "--epochs", "3"]
    code, out, err = command("train", *SMALL, *diverging)
    assert code == 1
    (line,) = err.splitlines()
    assert line.startswith("error: the loss became nan by step ")
    run = the_run_since(before)
    assert f"run {run.info.run_id}\n" in out
    assert run.info.status == "FAILED"
    assert run.info.end_time is not None
    assert run.data.tags["layerscope.state"] == "failed"
    assert f"error: {run.data.tags['layerscope.reason']}" == line
    steps = table(run, "hyperparameters/steps.parquet", place)
    losses = steps.filter(pa.compute.equal(steps["group"], "weights"))["loss"].to_pylist()
    assert np.isnan(losses[-1])
    assert np.isfinite(losses[:-1]).all()
    assert line.startswith(f"error: the loss became nan by step {len(losses) - 1} ")
    stats = table(run, "activations/stats.parquet", place)
    assert max(stats["step"].to_pylist()) == len(losses) - 1
    points = history(sqlite_store(), run.info.run_id, "train/loss")
    assert sorted(step for _, step, _ in points) == list(range(len(losses)))
    client = MlflowClient(sqlite_store())
    names = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert names == {
        *("config.yaml", "model_summary.txt", "model_summary.json"),
        *("hyperparameters", "activations"),
    }
    assert run.data.params["lr_max"] == "1e+30"
    assert names_in(place / "records") == []


def test_a_range_test_without_a_suggestion(command: Command) -> None:
    before = runs()
    flat = ["--optimizer", "sgd", "--lr-start", "1e-12", "--lr-end", "1e-11"]
    code, out, err = command("lr-find", *SMALL, *flat, "--lr-steps", "20", "--train-limit", "16")
    assert code == 1
    assert err.startswith("error: the loss did not fall at any learning rate from 1e-12 to 1e-11;")
    run = the_run_since(before)
    assert run.info.status == "FAILED"
    assert f"run {run.info.run_id}\n" in out
    client = MlflowClient(sqlite_store())
    curve = {item.path for item in client.list_artifacts(run.info.run_id, "lr_range")}
    assert curve == {
        "lr_range/curve.parquet",
        "lr_range/curve.png",
        "lr_range/suggestions.json",
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "told"),
    [(signal.SIGINT, 130, "\ninterrupted\n"), (signal.SIGTERM, 143, "")],
    ids=["SIGINT", "SIGTERM"],
)
def test_a_signal_ends_the_run_as_killed_with_its_records(
    place: Path, number: signal.Signals, code: int, told: str
) -> None:
    before = runs()
    with subprocess.Popen(
        [sys.executable, SCRIPT, "train", *SMALL, "--epochs", "5000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any(line.startswith("epoch") for line in lines)
        process.send_signal(number)
        out, err = process.communicate()
        watchdog.cancel()
    assert process.returncode == code
    assert err == told
    run = the_run_since(before)
    assert run.info.status == "KILLED"
    assert run.data.tags["layerscope.state"] == "killed"
    assert number.name in run.data.tags["layerscope.reason"]
    assert f"run {run.info.run_id}\n" in out
    steps = table(run, "hyperparameters/steps.parquet", place)
    done = len(set(steps["step"].to_pylist()))
    assert 4 <= done < 5000 * 4
    stats = table(run, "activations/stats.parquet", place)
    assert len(set(stats["step"].to_pylist())) in {done, done - 1}
    assert history(sqlite_store(), run.info.run_id, "valid/loss")
    assert names_in(place / "records") == []
