"""`layerscope diagnose`, and what a diagnosis leaves on the terminal, on disk and in MLflow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.integration.command import SMALL, Command, command_here, runs
from tests.mlflow_stores import artifact_text, sqlite_store
from tracking.mlflow_runs.report import NOTE

__all__: list[str] = []

# No normalisation, plain SGD, and a rate at which the loss goes up in a few steps.
WILD = [*SMALL, "--optimizer", "sgd", "--norm", "none", "--lr-max", "30", "--epochs", "8"]


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    (tmp_path / "here").mkdir()
    with command_here(tmp_path / "here", monkeypatch, capfd) as run:
        yield run


def test_a_diverging_run_is_diagnosed_while_it_trains_and_afterwards(command: Command) -> None:
    before = set(runs())
    code, out, err = command("train", *WILD, "--report", "true")
    assert code == 1
    assert "loss became" in err
    assert "critical at step" in out
    assert "(lr_too_high); try: lower the peak learning rate (--lr-max 0.05)" in out
    [run_id] = set(runs()) - before
    tags = runs()[run_id].data.tags
    assert tags["layerscope.findings"].endswith("worst: critical lr_too_high")
    assert "### Diagnosis" in tags[NOTE]
    assert "times its start" in artifact_text(sqlite_store(), run_id, "report.html")
    stored = json.loads(artifact_text(sqlite_store(), run_id, "diagnosis.json"))

    code, out, err = command("diagnose", run_id)
    assert (code, err) == (0, "")
    assert "lr_too_high" in out
    assert "--lr-max 0.05" in out
    code, out, _ = command("diagnose", run_id, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["missing"] == []
    assert [one["rule"] for one in found["findings"]] == [one["rule"] for one in stored["findings"]]


def test_stop_on_critical_ends_the_run_as_failed_with_the_finding_as_reason(
    command: Command,
) -> None:
    before = set(runs())
    limits = "constant_predictions.share=0.01,constant_predictions.steps=1"
    calm = [*SMALL, "--epochs", "9"]
    code, out, err = command("train", *calm, "--stop-on", "critical", "--thresholds", limits)
    assert code == 1
    [run_id] = set(runs()) - before
    run = runs()[run_id]
    assert run.info.status == "FAILED"
    assert run.data.tags["layerscope.state"] == "failed"
    reason = run.data.tags["layerscope.reason"]
    assert reason.startswith("stopped (stop_on=critical): ")
    assert (
        "get the same answer (constant_predictions); try: take a learning rate that is usual"
        in reason
    )
    assert reason in err
    assert 1 <= out.count("epoch ") <= 2  # of nine


def test_runs_of_others_are_diagnosed_by_what_the_store_knows(command: Command) -> None:
    client = MlflowClient(sqlite_store())
    experiment = client.create_experiment("others")
    run_id = client.create_run(experiment).info.run_id
    client.set_terminated(run_id)
    code, out, _ = command("diagnose", run_id)
    assert code == 0
    assert "nothing found" in out
    assert "not looked at: activations/stats.parquet is not there" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "run nowhere in MLflow store"),
        (["nowhere", "--thresholds", "x"], "allowed: rule.threshold=number"),
    ],
)
def test_bad_input_exits_with_2(command: Command, arguments: list[str], message: str) -> None:
    code, _, err = command("diagnose", *arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_thresholds_are_checked_before_a_run_begins(command: Command) -> None:
    before = set(runs())
    code, _, err = command("train", *SMALL, "--thresholds", "dead_unit.share=1")
    assert code == 2
    assert "no rule 'dead_unit'" in err
    assert "Did you mean 'dead_units'?" in err
    assert set(runs()) == before
