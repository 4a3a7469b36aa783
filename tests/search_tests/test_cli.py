"""`layerscope study`: what reaches the work behind each command, and what its help says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import search.commands.retrain
import search.commands.run
import search.commands.show
import search.workers.work
from layerscope import cli
from pipelines.config import LOCAL_OPTIONS, RunConfig
from search.cli import study
from search.config import StudyConfig
from search.space.search_space import SearchSpace
from tracking.errors import BadOption

__all__: list[str] = []

Run = Callable[..., list[Any]]

WORK = [
    (search.commands.run, "run_study"),
    (search.workers.work, "work"),
    (search.commands.show, "show_status"),
    (search.commands.show, "show_best"),
    (search.commands.show, "show_trials"),
    (search.commands.show, "make_report"),
    (search.commands.retrain, "retrain_best"),
]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command line up to the work itself; returns what that would be given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    given: list[Any] = []
    for module, name in WORK:
        monkeypatch.setattr(module, name, lambda *args: given.extend(args))

    def go(*arguments: str) -> list[Any]:
        given.clear()
        cli(["study", *arguments], standalone_mode=False)
        return list(given)

    return go


def order(run: Run, *arguments: str) -> Any:
    (found,) = run("run", "--name", "S", *arguments)
    return found


# -- help --


def help_of(*command: str) -> str:
    result = CliRunner().invoke(cli, ["study", *command, "--help"], terminal_width=400)
    assert result.exit_code == 0
    return result.output


@pytest.mark.parametrize("name", study.commands)
def test_help_lists_every_option(name: str) -> None:
    text = " ".join(help_of(name).split())
    assert f"Usage: cli study {name} " in text
    for option in study.commands[name].params:
        assert isinstance(option, click.Option)
        assert option.help
        _, flag, after = text.partition(f" {option.opts[0]} ")
        assert flag, option.opts
        assert " ".join(option.help.split()) in after


def test_the_group_says_what_each_command_does() -> None:
    text = help_of()
    assert list(study.commands) == [
        "run",
        "worker",
        "status",
        "best",
        "trials",
        "report",
        "retrain",
    ]
    for name, command in study.commands.items():
        assert any(line.split()[:1] == [name] for line in text.splitlines())
        assert command.help


def test_run_takes_every_option_of_a_study_and_of_a_run() -> None:
    flags = {option.opts[0] for option in study.commands["run"].params}
    fields = [*StudyConfig.model_fields, *RunConfig.model_fields]
    assert len(set(fields)) == len(fields)
    assert {f"--{name.replace('_', '-')}" for name in fields} <= flags
    own = flags - {f"--{name.replace('_', '-')}" for name in fields}
    assert own == {"--space", "--space-file", "--storage", "--config"}


@pytest.mark.parametrize("name", [name for name in study.commands if name != "run"])
def test_a_name_is_asked_for(name: str, run: Run) -> None:
    with pytest.raises(click.MissingParameter):
        run(name)


# -- run --


def test_nothing_but_a_name_is_the_default(run: Run) -> None:
    found = order(run)
    assert found.definition.base == RunConfig()
    assert found.definition.options == StudyConfig(name="S")
    assert found.definition.space == SearchSpace.read()
    assert set(found.given) == {"name"}
    assert str(found.url) == f"sqlite:///{Path.cwd()}/layerscope.db"


def test_options_go_where_they_belong(run: Run) -> None:
    found = order(run, "--trials", "7", "--epochs", "3", "--lr-scaling", "none")
    assert found.definition.base == RunConfig(epochs=3)
    assert found.definition.options == StudyConfig(name="S", trials=7, lr_scaling="none")
    assert found.definition.space.lr_scaling == "none"
    assert set(found.given) == {"name", "trials", "epochs", "lr_scaling"}


def test_defaults_that_mlflow_run_gives_count_as_not_given(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["--trials", "20", "--workers", "2", "--epochs", "10", "--dataset", "fashion-mnist"]
    assert {"trials", "workers", "epochs", "dataset"} <= set(order(run, *line).given)
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    assert set(order(run, *line).given) == {"name", "workers", "dataset"}


SPACE = ["lr_max=log:1e-3:1", "batch_size=32,64", "schedule=one_cycle,linear"]


def test_a_space_may_be_given_at_once_or_in_parts(run: Run) -> None:
    at_once = order(run, "--space", "  ".join(SPACE))
    in_parts = order(run, *(word for text in SPACE for word in ("--space", text)))
    mixed = order(run, "--space", SPACE[0], "--space", "\n".join(SPACE[1:]))
    assert at_once.definition == in_parts.definition == mixed.definition
    assert at_once.definition.space == SearchSpace.read(SPACE)
    assert set(at_once.given) == {"name", "space"}


def test_underscores_do_as_well(run: Run, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("lr_max: 0.1:0.2\n", encoding="utf-8")
    dashes = ["--sampler-seed", "3", "--batch-size", "32", "--space-file", "space.yaml"]
    underscores = [
        word.replace("--", "__").replace("-", "_").replace("__", "--") for word in dashes
    ]
    assert "--sampler_seed" in underscores
    assert order(run, *underscores) == order(run, *dashes)


def test_a_file_may_have_options_of_the_study_too(run: Run, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("trials: 7\nepochs: 4\n", encoding="utf-8")
    found = order(run, "--config", "c.yaml")
    assert (found.definition.options.trials, found.definition.base.epochs) == (7, 4)
    assert set(found.given) == {"name", "trials", "epochs"}


def test_the_command_line_comes_before_the_files(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("epochs: 4\noptimizer: sgd\n", encoding="utf-8")
    (tmp_path / "space.yaml").write_text(
        "lr_max: log:1e-3:1\nbatch_size: [32, 64]\n", encoding="utf-8"
    )
    files = ["--config", "config.yaml", "--space-file", "space.yaml"]
    found = order(run, *files, "--epochs", "2", "--space", "batch_size=16,32")
    assert found.definition.base == RunConfig(epochs=2, optimizer="sgd")
    assert found.definition.space.describe() == {
        "batch_size": "16,32",
        "lr_max": "log:0.001:1",
    }
    assert set(found.given) == {"name", "epochs", "optimizer", "space"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trials", "0"], r"^trials=0: "),
        (["--lr-max", "0"], r"^lr_max=0: "),
        (["--name", ""], r"^name is missing; give the study one: --name NAME$"),
        (["--space", "lr_maxi=1:2"], r"Did you mean 'lr_max'"),
        (["--space-file", "nowhere.yaml"], r"^space nowhere.yaml: cannot be read"),
        (["--config", "nowhere.yaml"], r"^config nowhere.yaml: cannot be read"),
        (["--storage", "no url"], r"--storage 'no url' is no database URL"),
    ],
)
def test_what_cannot_be_used_is_refused_before_any_work(
    arguments: list[str], message: str, run: Run
) -> None:
    with pytest.raises(BadOption, match=message):
        order(run, *arguments)
    assert list(Path.cwd().iterdir()) == []


def test_a_password_is_not_for_the_command_line(run: Run) -> None:
    with pytest.raises(BadOption, match="OPTUNA_STORAGE") as caught:
        order(run, "--storage", "postgresql://me:hunter2@host/db")
    assert "hunter2" not in str(caught.value)


# -- the other commands --

STORE = ["--storage", "sqlite:////tmp/s.db"]


def test_each_command_gets_name_and_storage(run: Run) -> None:
    for name in study.commands:
        given = run(name, "--name", "my study", *STORE)
        if name == "run":
            assert given[0].definition.options.name == "my study"
            assert str(given[0].url) == STORE[1]
        else:
            assert (given[0], str(given[1])) == ("my study", STORE[1])


def test_an_option_says_the_same_of_every_command() -> None:
    flags: dict[str, set[str | None]] = {}
    for command in study.commands.values():
        for option in command.params:
            if isinstance(option, click.Option) and option.name in RunConfig.model_fields:
                flags.setdefault(option.opts[0], set()).add(option.help)
    assert all(len(texts) == 1 for texts in flags.values())
    for name in ("worker", "retrain"):
        given = {option.name for option in study.commands[name].params}
        assert given & RunConfig.model_fields.keys() == set(LOCAL_OPTIONS)


def test_a_worker_has_options_of_its_machine(run: Run) -> None:
    given = run("worker", "--name", "S", "--data_dir", "/d", "--threads", "2")
    assert given[2] == {"data_dir": "/d", "threads": "2"}
    assert run("worker", "--name", "S")[2] == {}


@pytest.mark.parametrize(("flag", "form"), [([], ""), (["--json"], "json"), (["--csv"], "csv")])
def test_trials_have_a_form(flag: list[str], form: str, run: Run) -> None:
    assert run("trials", "--name", "S", *flag)[2] == form


def test_best_and_report_write_where_they_are_told(run: Run) -> None:
    for name in ("best", "report"):
        assert run(name, "--name", "S")[2] is None
        assert run(name, "--name", "S", "--output", "a b")[2] == Path("a b")


def test_the_model_is_registered_under_the_studys_name_unless_told_otherwise(run: Run) -> None:
    assert run("retrain", "--name", "S")[2:] == [None, "S", {}]
    given = run("retrain", "--name", "S", "--trial", "3", "--register", "m", "--device", "cpu")
    assert given[2:] == [3, "m", {"device": "cpu"}]
    with pytest.raises(click.BadParameter):
        run("retrain", "--name", "S", "--trial", "best")
