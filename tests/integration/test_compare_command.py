"""`layerscope compare` from the first run to its page: what it says, leaves, and goes on with."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from tests.integration.command import Command, command_here
from tests.integration.study_commands import TINY, all_runs, children, start, states, stored
from tests.mlflow_stores import names_in, sqlite_store
from tracking.mlflow_runs.report import NOTE

__all__: list[str] = []

HEADS = ["compare", "--factor", "head", "--values", "conv,gap", "--name", "heads", *TINY]


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    with command_here(tmp_path, monkeypatch, capfd) as run:
        yield run


def parent(name: str) -> str:
    run_id: str = stored(name).user_attrs["layerscope.mlflow_run_id"]
    return run_id


def artifact(run_id: str, name: str, folder: Path) -> Path:
    where = {"run_id": run_id, "artifact_path": name, "dst_path": str(folder)}
    return Path(download_artifacts(**where, tracking_uri=sqlite_store()))


@pytest.mark.slow
def test_a_comparison_and_one_with_more_seeds(command: Command, tmp_path: Path) -> None:
    code, out, err = command(*HEADS, "--seeds", "2")
    assert code == 0, err
    assert "comparison heads: head = conv, gap, each with 2 seeds from 0 on\n" in out
    assert states("heads") == ["COMPLETE"] * 4
    run = next(run for run in all_runs() if run.info.run_id == parent("heads"))
    assert run.info.status == "FINISHED"
    runs = children(run.info.run_id)
    pairs = [(child.data.params["head"], child.data.params["seed"]) for child in runs]
    assert pairs == [("conv", "0"), ("gap", "0"), ("gap", "1"), ("conv", "1")]
    assert "test/accuracy" not in {key for child in runs for key in child.data.metrics}
    assert "Comparison of `head`" in run.data.tags[NOTE]
    assert {item.path for item in MlflowClient(sqlite_store()).list_artifacts(run.info.run_id)} == {
        *("comparison.html", "comparison.json", "trials.parquet"),
    }
    content = json.loads(artifact(run.info.run_id, "comparison.json", tmp_path).read_text())
    for arm in content["arms"]:
        shown = {r["seed"]: r["accuracy"] for r in arm["runs"]}
        logged = {
            int(child.data.params["seed"]): child.data.metrics["valid/accuracy"]
            for child in runs
            if child.data.params["head"] == arm["text"]
        }
        assert shown == logged
    assert content["command"].endswith("--seeds 2")

    code, out, err = command(*HEADS, "--seeds", "3")
    assert code == 0, err
    assert out.count("complete") == 2
    assert parent("heads") == run.info.run_id
    assert len(children(run.info.run_id)) == 6
    rows = pq.read_table(artifact(run.info.run_id, "trials.parquet", tmp_path))
    assert rows["params/seed"].to_pylist() == [0, 0, 1, 1, 2, 2]
    assert names_in(tmp_path / "records") == []

    for words in (["best"], ["retrain"], ["run", *TINY]):
        code, _, err = command("study", words[0], "--name", "heads", *words[1:])
        assert code == 2
        assert err.startswith("error: 'heads' is a comparison of head, and no search; ")
    code, out, err = command("study", "report", "--name", "heads", "--output", "page")
    assert (code, err) == (0, "")
    assert names_in(tmp_path / "page") == ["comparison.html", "comparison.json", "trials.parquet"]


@pytest.mark.slow
def test_runs_of_a_seed_are_a_pair_and_two_workers_give_the_same(command: Command) -> None:
    """A value compared with itself under another name: nothing may differ, seed by seed."""
    same = ["compare", "--factor", "erase", "--values", "0,1e-30", *TINY, "--seeds", "2"]
    code, out, err = command(*same, "--threads", "1")
    assert code == 0, err
    assert "gave the same accuracy with each of 2 seeds." in out
    (name,) = {one.split(":")[0] for one in out.split("comparison ")[1:2]}
    alone = [(t.params, t.values) for t in stored(name).get_trials() if t.values]
    code, out, err = command(*same, "--threads", "1", "--name", "pool", "--workers", "2")
    assert code == 0, err
    pool = [(t.params, t.values) for t in stored("pool").get_trials() if t.values]
    assert sorted(pool, key=str) == sorted(alone, key=str)
    seeds = {trial[0]["seed"]: trial[1] for trial in alone}
    assert len(seeds) == 2


@pytest.mark.slow
def test_a_value_that_diverges_is_said(command: Command) -> None:
    hard = ["compare", "--factor", "lr_max", "--values", "0.01,1e30", "--seeds", "2", *TINY]
    code, out, err = command(*hard, "--optimizer", "sgd", "--norm", "none", "--epochs", "2")
    assert code == 0, err
    words = " ".join(out.split())
    assert "Not in these figures: lr_max=1e+30 diverged with 2 of 2 seeds." in words
    code, out, err = command(
        *hard[:3], "--values", "1e29,1e30", *hard[5:], "--optimizer", "sgd", "--norm", "none"
    )
    assert code == 1
    assert err.startswith("error: comparison lr_max-")
    assert err.endswith(": nothing was trained to its end\n")


@pytest.mark.slow
def test_it_goes_on_where_it_was_stopped(command: Command, tmp_path: Path) -> None:
    """Ctrl-C ends it at once; the training under way is done again."""
    long = [*HEADS, "--seeds", "2", "--epochs", "30"]
    with start(*long, folder=tmp_path) as process:
        watchdog = threading.Timer(300, process.kill)
        watchdog.start()
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any(line.startswith("trial   0") for line in lines)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
        watchdog.cancel()
    assert process.returncode == 130, err
    assert "stopped; to go on: python layerscope.py compare --factor head" in out
    code, out, err = command(*long)
    assert code == 0, err
    assert [child.info.status for child in children(parent("heads"))].count("FINISHED") == 4
    assert sum(state == "COMPLETE" for state in states("heads")) == 4


def test_what_is_refused_leaves_nothing(command: Command, tmp_path: Path) -> None:
    before = len(all_runs())
    for words, message in (
        (["--factor", "head"], "values=: a comparison needs two values or more"),
        (["--factor", "batch_size", "--values", "16,9999"], "values: batch_size=9999 could not be"),
        (["--factor", "train_limit", "--values", "200,9"], "values: train_limit=9 could not be"),
        (["--factor", "widths", "--values", "4;4,x"], "values=4;4,x: widths=x: input should be "),
        (
            ["--factor", "model", "--values", "simple_cnn,none:make"],
            "values: model=none:make could",
        ),
        (["--factor", "head", "--values", "conv,gap", "--head", "gap"], "head is the factor, and "),
    ):
        code, _, err = command("compare", *words)
        assert code == 2, words
        assert err.startswith(f"error: {message}"), err
        assert err.count("\n") == 1
    assert len(all_runs()) == before
    assert names_in(tmp_path) == []


@pytest.mark.slow
def test_a_name_that_is_taken(command: Command) -> None:
    assert command(*HEADS, "--seeds", "2")[0] == 0
    code, _, err = command(*HEADS, "--seeds", "2", "--lr-max", "0.5")
    assert code == 2
    assert "'heads' exists and is another one: lr_max: 0.5 here, 0.01 in the study" in err
