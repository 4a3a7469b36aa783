"""Bad input through the real command: one line, exit code 2, and no run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.integration.command import SCRIPT, SMALL, Command, command_here, runs
from tests.mlflow_stores import names_in

__all__: list[str] = []

FACTORIES = """
import numpy as np
from torch import nn

def five(image_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(5))

def images():
    return "no images"

raise_here = None
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder to work in, with data and models that do not fit."""
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
    with command_here(place, monkeypatch, capfd) as run:
        yield run


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
        cwd=place,
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
