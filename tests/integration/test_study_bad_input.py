"""Bad input to `layerscope study`: one line, exit code 2, and nothing created anywhere."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.command import Command, command_here
from tests.integration.study_commands import TINY, all_runs
from tests.mlflow_stores import names_in

__all__: list[str] = []

FILES = {
    "broken.yaml": "lr_max: [",
    "list.yaml": "- lr_max",
    "empty.yaml": "",
    "typo.yaml": "lr_maks: log:1e-3:1",
    "url.txt": "",
}

SPACE = "lr_max=log:1e-3:0.1"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.fixture
def command(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    with command_here(place, monkeypatch, capfd) as run:
        yield run


def refused(command: Command, place: Path, *arguments: str) -> str:
    """The one line with which a command was refused; nothing has come of it."""
    before = {run.info.run_id for run in all_runs()}
    code, out, err = command("study", *arguments)
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert {run.info.run_id for run in all_runs()} == before
    # The folder that LAYERSCOPE_RECORDS names may stay, with nothing in it.
    assert set(names_in(place)) - {"records"} == {*FILES, "folder"}
    assert not (place / "records").exists() or not names_in(place / "records")
    return err


BAD_SPACE = [
    ("an option misspelt", "lr_maks=log:1e-3:1", "unknown option 'lr_maks'. Did you mean 'lr_max'"),
    ("an option of the study", "epochs=1:5", "epochs cannot be searched"),
    ("a value misspelt", "schedule=one-cycle,linear", "schedule=one-cycle: input should be 'one_"),
    ("beyond a limit", "pct_start=0.5:1.5", "pct_start=1.5: input should be less than 1"),
    ("below a limit", "lr_max=-1:1", "lr_max=-1"),
    ("an empty range", "lr_max=1:0.1", "lr_max=1:0.1"),
    ("one number", "lr_max=log:1:1", "lr_max=log:1:1"),
    ("a logarithm of 0", "weight_decay=log:0:1", "weight_decay=log:0:1"),
    ("no number", "lr_max=log:a:b", "expected numbers as low:high"),
    ("no values", "batch_size=", "batch_size="),
    ("no equals sign", "lr_max", "expected NAME=VALUES"),
    ("twice", "lr_max=1:2 lr_max=2:3", "lr_max is given twice"),
    ("infinite", "lr_max=1:inf", "lr_max=1:inf"),
    ("without effect", "pct_start=0.1:0.5 schedule=cosine,constant", "pct_start"),
    (
        "batch beyond the data",
        "batch_size=16,99",
        "space batch_size=16,99: batch_size=99 is larger",
    ),
    (
        "range beyond the data",
        "batch_size=16:99",
        "space batch_size=16:99: batch_size=99 is larger",
    ),
    (
        "a network too deep for the images",
        "widths=4;4,8,16,32,64",
        "space: trials with widths=4,8,16,32,64 could not be run: model=simple_cnn: images of",
    ),
]
BAD_OPTIONS = [
    ("no trials", "--trials 0", "trials=0: input should be greater than or equal to 1"),
    ("half a trial", "--trials 2.5", "trials=2.5: input should be a valid integer"),
    ("workers", "--workers -1", "workers=-1: input should be greater than or equal to 0"),
    ("patience", "--patience 3", "patience=3: a study's trials are judged at equal numbers"),
    ("no validation", "--valid-fraction 0", "valid_fraction=0: a study needs validation data"),
    ("health", "--health dead_layers", "health=dead_layers: allowed: critical, warning, none"),
    ("rung", "--rung anneal:x", "rung=anneal:x: allowed: anneal:EPOCHS"),
    ("rung 0", "--rung anneal:0", "anneal:EPOCHS takes a number above 0"),
    ("rung nan", "--rung anneal:nan", "anneal:EPOCHS takes a number above 0"),
    ("other rung", "--rung annealing", "rung=annealing: allowed: anneal:EPOCHS"),
    ("plain with a length", "--rung plain:2", "rung=plain:2: allowed: anneal:EPOCHS"),
    ("rungs", "--rungs 0", "rungs=0: allowed: rising shares of the run between 0 and 1"),
    ("reduction", "--reduction 1", "reduction=1: input should be greater than or equal to 2"),
    ("pruner", "--pruner asha", "pruner=asha: allowed: halving, hyperband, median"),
    ("threshold", "--pruner threshold", "pruner=threshold: allowed: threshold:VALUE"),
    ("hyperband", "--pruner hyperband --rungs 0.3", "pruner=hyperband needs two rungs or more"),
    ("falling rungs", "--rungs 0.3,0.1", "rungs=0.3,0.1: allowed: rising shares of the run"),
    ("sampler", "--sampler bayes", "sampler=bayes: input should be 'tpe', 'gp'"),
    ("objective", "--objective f1", "objective=f1: input should be 'accuracy', 'loss'"),
    ("heartbeat", "--heartbeat 0", "heartbeat=0: input should be greater than or equal to 1"),
    ("grid over a range", "--sampler grid --space lr_max=1:2", "a grid needs values, not ranges"),
    ("data set", "--dataset digitz", "dataset=digitz: allowed: digits, "),
    ("no such data", "--dataset folder:none", "folder none: does not exist"),
    ("model", "--model none.such:make", "none.such cannot be imported"),
    ("option of the runs", "--lr-max 0", "lr_max=0: input should be greater than 0"),
    ("batch size", "--batch-size 4096", "batch_size=4096 is larger than the training split"),
    ("unknown flag", "--trails 3", "No such option '--trails'"),
    ("broken space file", "--space-file broken.yaml", "space broken.yaml: cannot be read ("),
    ("space file is a list", "--space-file list.yaml", "expected lines such as 'lr_max:"),
    ("empty space file", "--space-file empty.yaml", "space"),
    ("typo in a file", "--space-file typo.yaml", "unknown option 'lr_maks'. Did you mean 'lr_max'"),
    ("no space file", "--space-file none.yaml", "space none.yaml: cannot be read ("),
    ("no config", "--config none.yaml", "config none.yaml: cannot be read"),
    ("no folder for the storage", "--storage sqlite:///none/s.db", "its folder does not exist"),
    ("storage is a folder", "--storage sqlite:///folder", "it is a folder; name a file in it"),
    ("no URL", "--storage studies.db", "--storage 'studies.db' is no database URL; allowed are"),
    ("memory", "--storage sqlite://", "names no file on disk"),
    ("no file with a URL", "--storage file:none.txt", "none.txt"),
    ("no URL in the file", "--storage file:url.txt", "url.txt"),
]


@pytest.mark.parametrize(
    ("space", "message"), [case[1:] for case in BAD_SPACE], ids=[case[0] for case in BAD_SPACE]
)
def test_a_space_that_cannot_be_searched(
    command: Command, place: Path, space: str, message: str
) -> None:
    assert message in refused(command, place, "run", "--name", "S", *TINY, "--space", space)


@pytest.mark.parametrize(
    ("line", "message"), [case[1:] for case in BAD_OPTIONS], ids=[case[0] for case in BAD_OPTIONS]
)
def test_options_that_cannot_be_used(
    command: Command, place: Path, line: str, message: str
) -> None:
    # Options that come twice: the last one counts. A space is needed that fits the data.
    arguments = ["run", "--name", "S", *TINY, *line.split()]
    space = [] if "--space" in line else ["--space", SPACE]
    assert message in refused(command, place, *arguments, *space)


def test_a_study_needs_a_name(command: Command, place: Path) -> None:
    assert "name is missing; give the study one: --name NAME" in refused(command, place, "run")
    assert "name is missing" in refused(command, place, "run", "--name", "")
    for looking in ("worker", "status", "best", "trials", "report", "retrain"):
        assert "Missing option '--name'" in refused(command, place, looking)
    assert "name=" in refused(command, place, "run", "--name", "x" * 201)


def test_a_database_that_is_not_there(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("OPTUNA_STORAGE", f"postgresql://ann:s3cr3t@127.0.0.1:{port}/studies")
    run = ["run", "--name", "S", *TINY, "--space", SPACE]
    for arguments in (run, ["status", "--name", "S"]):
        said = refused(command, place, *arguments)
        assert f"host 127.0.0.1, port {port}" in said
        assert "Connection refused" in said
        assert "ann:***@" in said
        assert "s3cr3t" not in said


def test_a_password_is_not_for_the_command_line(command: Command, place: Path) -> None:
    given = ["--storage", "postgresql://ann:s3cr3t@db/studies"]
    for arguments in (["run", *TINY], ["worker"], ["status"], ["retrain"]):
        said = refused(command, place, *arguments, "--name", "S", *given)
        assert "OPTUNA_STORAGE" in said
        assert "s3cr3t" not in said


@pytest.mark.parametrize("looking", ["worker", "status", "best", "trials", "report", "retrain"])
def test_looking_makes_no_database(command: Command, place: Path, looking: str) -> None:
    said = refused(command, place, looking, "--name", "S")
    assert "there is no such file; check --storage and OPTUNA_STORAGE" in said


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MLFLOW_TRACKING_URI", "sqlite:////proc/none/mlflow.db"),
        ("MLFLOW_TRACKING_URI", "http://127.0.0.1:9"),
        ("LAYERSCOPE_RECORDS", "empty.yaml/records"),
    ],
)
def test_without_mlflow_there_is_no_study(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    said = refused(command, place, "run", "--name", "S", *TINY, "--space", SPACE)
    assert value in said
    assert "cannot be used" in said or "cannot be written" in said
