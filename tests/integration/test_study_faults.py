"""Studies whose workers are killed, interrupted, or fail: no trial is lost or counted twice."""

from __future__ import annotations

import os
import pkgutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from pipelines.config import RunConfig
from search.commands import open_study
from search.config import StudyConfig
from search.definition import MLFLOW_RUN, StudyDefinition
from search.space.search_space import SearchSpace
from search.storage.studies import create, exists
from search.storage.trial_queue import settled
from search.trials import objective
from tests.integration.command import Command, command_here
from tests.integration.study_commands import TINY, all_runs, children, states, stored, unfinished
from tests.mlflow_stores import names_in, sqlite_store
from tracking.mlflow_runs.deliveries import Deliveries

__all__: list[str] = []

pytestmark = pytest.mark.usefixtures("no_plots")

MODELS = '''
import time
from pathlib import Path
from torch import nn

calls = []

class Net(nn.Sequential):
    """Stands still as long as there is a file called hold, but not while a worker warms up."""

    passes = 0

    def forward(self, x):
        self.passes += 1
        time.sleep(0.02)
        while self.passes > 10 and Path("hold").exists():
            time.sleep(0.01)
        return super().forward(x)

def net(image_shape, classes):
    return Net(nn.Flatten(), nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(classes))

def broken(image_shape, classes):
    """Can be made once, when the study is checked."""
    calls.append(1)
    if len(calls) > 1:
        raise OSError("the disk is on fire")
    return net(image_shape, classes)
'''
SPACE = ["--space", "lr_max=log:1e-3:0.1", "--pruner", "none", "--sampler", "random"]
SLOW = [*TINY, *SPACE, "--model", "study_models:net", "--epochs", "6", "--record", "false"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "study_models.py").write_text(MODELS, encoding="utf-8")
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    yield tmp_path
    sys.modules.pop("study_models", None)


@pytest.fixture
def command(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    handler = signal.getsignal(signal.SIGINT)

    def restored(*arguments: str) -> tuple[int, str, str]:
        try:
            return run(*arguments)
        finally:
            signal.signal(signal.SIGINT, handler)

    with command_here(place, monkeypatch, capfd) as run:
        yield restored


@contextmanager
def meanwhile(*steps: Callable[[], None]) -> Iterator[None]:
    """Does something in another thread. Its failure is the test's."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for step in steps:
                step()
        except BaseException as error:
            failures.append(error)
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    assert not failures, failures


def the_study(patience: float) -> Study:
    """The study, when it is there. To open a storage takes longer than to look into it again."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return stored("S")
        except Exception:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def running(study: Study) -> list[FrozenTrial]:
    """Trials that train now: their runs in MLflow have begun."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [trial for trial in trials if "mlflow_run_id" in trial.user_attrs]


def until(what: Callable[[], bool], patience: float) -> None:
    deadline = time.monotonic() + patience
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def worker_of(trial: FrozenTrial) -> int:
    return int(trial.user_attrs["worker"].rpartition(":")[2])


def study_run_id(name: str) -> str:
    return str(stored(name).user_attrs["layerscope.mlflow_run_id"])


@pytest.mark.slow
def test_workers_killed_and_interrupted(
    command: Command, place: Path, patience: float, caplog: pytest.LogCaptureFixture
) -> None:
    hold = place / "hold"
    victims: list[FrozenTrial] = []

    def kill_one() -> None:
        until((place / "layerscope.db").exists, patience)
        hold.touch()
        study = the_study(patience)
        until(lambda: len(running(study)) == 2, patience)
        victims.append(running(study)[0])
        assert worker_of(victims[0]) != os.getpid()
        os.kill(worker_of(victims[0]), signal.SIGKILL)

    def interrupt() -> None:
        # The other worker ends its trial and takes the dead one's, in place of the replacement,
        # which is being started when the signal comes.
        study = the_study(patience)
        hold.unlink()
        until(lambda: any(t.state == TrialState.COMPLETE for t in study.trials), patience)
        hold.touch()
        until(lambda: any("retry_of" in t.user_attrs for t in running(study)), patience)
        os.kill(os.getpid(), signal.SIGINT)

    with meanwhile(kill_one, interrupt):
        code, out, err = command(
            *("study", "run", "--name", "S", *SLOW, "--trials", "2"),
            *("--workers", "2", "--heartbeat", "1"),
        )
    assert code == 130, err
    assert "stopped; to go on: python layerscope.py study run --name S" in out
    assert "was ended (SIGKILL); another one takes its place" in caplog.text
    died = f"layerscope: trial {victims[0].number}: its worker died (no sign of life for 3 s)"
    assert err == f"{died}\n\ninterrupted\n"
    parent = study_run_id("S")
    assert unfinished("S", parent) == []
    run = MlflowClient(sqlite_store()).get_run(parent)
    assert run.info.status == "KILLED"
    trials = stored("S").trials
    waiting = [trial for trial in trials if trial.state == TrialState.WAITING]
    assert len(waiting) == 1
    assert len(settled(trials)) == 1

    hold.unlink()
    code, out, err = command("study", "run", "--name", "S", "--workers", "1")
    assert (code, err) == (0, "")
    trials = stored("S").trials
    assert len(settled(trials)) == 2
    assert all(trial.state == TrialState.COMPLETE for trial in settled(trials))
    assert unfinished("S", parent) == []
    assert MlflowClient(sqlite_store()).get_run(parent).info.status == "FINISHED"

    (victim,) = victims
    dead = trials[victim.number]
    assert dead.state == TrialState.FAIL
    assert dead.user_attrs["reason"] == "its worker died (no sign of life for 3 s)"
    runs = {found.info.run_id: found for found in children(parent)}
    dead_run = runs[dead.user_attrs["mlflow_run_id"]]
    retry = trials[dead.user_attrs["retried_as"]]
    retry_run = runs[retry.user_attrs["mlflow_run_id"]]
    assert dead_run.info.status == "KILLED"
    assert dead_run.data.tags["layerscope.trial_state"] == "retried"
    assert dead_run.data.tags["layerscope.retried_as"] == retry_run.info.run_id
    assert retry_run.data.tags["layerscope.retry_of"] == dead_run.info.run_id
    # Tried again with the parameters that it had.
    assert retry.params == dead.params
    # Every trial that began has one run, and no run is without a trial.
    begun = [t.user_attrs["mlflow_run_id"] for t in trials if "mlflow_run_id" in t.user_attrs]
    assert sorted(begun) == sorted(runs)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_study_in_one_process_is_stopped(
    command: Command, place: Path, patience: float, number: signal.Signals, code: int
) -> None:
    hold = place / "hold"

    def stop() -> None:
        study = the_study(patience)
        until(lambda: [trial.number for trial in running(study)] == [1], patience)
        hold.touch()
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # an impatient second one

    with meanwhile(stop):
        ended, out, err = command("study", "run", "--name", "S", *SLOW, "--trials", "3")
    assert ended == code
    assert "Traceback" not in err
    assert "stopped; to go on: python layerscope.py study run --name S" in out
    parent = study_run_id("S")
    assert unfinished("S", parent) == []
    trials = stored("S").trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "WAITING", "WAITING"]
    assert trials[1].user_attrs["reason"] == "interrupted"
    assert trials[1].user_attrs["retried_as"] == 3
    stopped = children(parent)[1]
    assert stopped.info.status == "KILLED"
    assert stopped.data.tags["layerscope.trial_state"] == "interrupted"

    hold.unlink()
    ended, out, err = command("study", "run", "--name", "S", *SLOW, "--trials", "3")
    assert (ended, err) == (0, "")
    assert "3 trials, 1 of them done" in out
    trials = stored("S").trials
    assert [trial.number for trial in settled(trials)] == [0, 2, 3]
    assert trials[3].params == trials[1].params
    assert unfinished("S", parent) == []
    again = children(parent)[3]
    assert again.data.tags["layerscope.retry_of"] == stopped.info.run_id
    assert names_in(place / "records") == []


@pytest.mark.parametrize(
    "moment",
    [
        "search.trials.objective.MlflowRun.child",
        "search.trials.objective.prepare",
        "search.trials.judge.Judge.conclude",
        "tracking.mlflow_runs.session._end",
    ],
)
def test_a_signal_at_any_moment_leaves_nothing_running(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    owner, _, name = moment.rpartition(".")
    target: Any = pkgutil.resolve_name(owner)
    real = getattr(target, name)
    calls: list[int] = []

    def interrupted(*given: Any, **named: Any) -> Any:
        calls.append(1)
        if name == "_end" and len(calls) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        result = real(*given, **named)
        if name != "_end" and len(calls) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return result

    monkeypatch.setattr(target, name, interrupted)
    known = {run.info.run_id for run in all_runs()}
    code, _, err = command("study", "run", "--name", "S", *TINY, *SPACE, "--trials", "2")
    assert (code, err.strip()) == (130, "interrupted")
    begun = [run for run in all_runs() if run.info.run_id not in known]
    assert len(begun) == 2
    assert "RUNNING" not in {run.info.status for run in begun}
    assert unfinished("S", study_run_id("S")) == []
    trials = stored("S").trials
    waiting = [trial for trial in trials if trial.state == TrialState.WAITING]
    assert len(settled(trials)) + len(waiting) == 2


def test_a_signal_while_a_trial_waits_for_mlflow_is_heard(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []

    def away(*_given: Any, **_named: Any) -> Any:
        tries.append(1)
        assert len(tries) < 5, "it goes on waiting"
        os.kill(os.getpid(), signal.SIGINT)
        raise ConnectionError("refused")

    monkeypatch.setattr(objective.MlflowRun, "child", away)
    code, _, err = command("study", "run", "--name", "S", *TINY, *SPACE, "--trials", "1")
    assert (code, len(tries)) == (130, 1)
    assert err.strip().endswith("interrupted")
    assert states("S") == ["WAITING"] or states("S") == ["FAIL", "WAITING"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_the_last_records_are_on_their_way_is_heard(
    command: Command,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    code: int,
) -> None:
    wait = Deliveries.wait

    def signalled(deliveries: Deliveries) -> None:
        os.kill(os.getpid(), number)
        wait(deliveries)

    monkeypatch.setattr(Deliveries, "wait", signalled)
    ended, out, _ = command("study", "run", "--name", "S", *TINY, *SPACE, "--trials", "1")
    assert ended == code
    assert "stopped; to go on: python layerscope.py study run --name S" in out
    assert states("S") == ["COMPLETE"]
    assert unfinished("S", study_run_id("S")) == []


def test_a_study_that_was_interrupted_when_it_was_made_has_its_first_trial_and_parameters(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = open_study.create

    def interrupted(*given: Any) -> Study:
        made(*given)
        raise KeyboardInterrupt

    wanted = ["study", "run", "--name", "S", *TINY, *SPACE, "--trials", "2", "--lr-prior", "true"]
    with monkeypatch.context() as patch:
        patch.setattr(open_study, "create", interrupted)
        assert command(*wanted)[0] == 130
    assert stored("S").trials == []
    assert command(*wanted)[0] == 0
    first, second = stored("S").trials
    assert "lr_max" in first.system_attrs["fixed_params"]
    assert "fixed_params" not in second.system_attrs
    params = MlflowClient(sqlite_store()).get_run(study_run_id("S")).data.params
    assert params["study.lr_prior"] == "True"


def test_a_study_that_another_command_makes_meanwhile_is_left_to_it(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def made_meanwhile(storage: Any, name: str) -> bool:
        calls.append(name)
        if len(calls) == 2:
            definition = StudyDefinition(RunConfig(), StudyConfig(name=name), SearchSpace.read())
            create(storage, definition, "the other's")
        return exists(storage, name)

    monkeypatch.setattr(open_study, "exists", made_meanwhile)
    code, _, err = command("study", "run", "--name", "S", *TINY, *SPACE, "--trials", "1")
    assert code == 2
    assert "study 'S' has just been made by another command; to help it: python" in err
    assert stored("S").user_attrs[MLFLOW_RUN] == "the other's"
    assert stored("S").trials == []


def test_trials_that_fail_one_after_the_other(command: Command, place: Path) -> None:
    broken = [*TINY, *SPACE, "--model", "study_models:broken"]
    code, out, err = command("study", "run", "--name", "F", *broken, "--trials", "8")
    assert code == 1
    assert err.splitlines()[-1].startswith("error: 3 trials failed one after the other")
    assert "the disk is on fire" in err
    assert "Traceback" not in err
    parent = study_run_id("F")
    assert unfinished("F", parent) == []
    assert states("F") == ["FAIL"] * 3 + ["WAITING"] * 5
    run = MlflowClient(sqlite_store()).get_run(parent)
    assert run.info.status == "FAILED"
    assert "the disk is on fire" in run.data.tags["layerscope.reason"]
    failed = children(parent)
    assert [child.info.status for child in failed] == ["FAILED"] * 3
    assert {child.data.tags["layerscope.trial_state"] for child in failed} == {"failed"}
    assert all("the disk is on fire" in child.data.tags["layerscope.reason"] for child in failed)
    assert out.count("failed") >= 3
