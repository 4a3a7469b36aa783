"""The command: light to start, one line for an error, an exit code that tells how it ended."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import optuna
import pytest

import layerscope
from layerscope import COMMANDS, cli, main
from tests.own_signals import own_signals_kept
from tracking import __version__
from tracking.errors import BadDataset, RecordsWaiting, TrainingFailed

__all__: list[str] = []

ROOT = Path(layerscope.__file__).parent


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """`main` sets a handler and a level of logging; the tests' process keeps its own."""
    level = logging.getLogger("layerscope").level
    with own_signals_kept():
        yield
    logging.getLogger("layerscope").setLevel(level)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs the command with arguments in this process: exit code, standard output, error."""

    def go(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["layerscope.py", *arguments])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return go


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Lets the training command end in an exception."""

    def end(error: BaseException) -> None:
        def train(config: Any) -> None:
            raise error

        monkeypatch.setattr("pipelines.commands.train_command", train)

    return end


# -- help --


@pytest.mark.parametrize("line", [["--help"], ["-h"]])
def test_help_lists_the_commands(run: Callable[..., Any], line: list[str]) -> None:
    code, out, err = run(*line)
    assert (code, err) == (0, "")
    assert out.startswith("Usage: layerscope [OPTIONS] COMMAND")
    for name, (_, text) in COMMANDS.items():
        assert f"{name} " in out
        assert text in out


def test_no_command_shows_the_help_and_is_a_mistake(run: Callable[..., Any]) -> None:
    code, out, err = run()
    assert code == 2
    assert "Usage: layerscope" in out + err


def test_version(run: Callable[..., Any]) -> None:
    assert run("--version")[:2] == (0, f"layerscope, version {__version__}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_loaded_and_has_a_help(run: Callable[..., Any], name: str) -> None:
    module, _, attribute = COMMANDS[name][0].partition(":")
    command = getattr(import_module(module), attribute)
    assert isinstance(command, click.Command)
    assert command.name == name
    code, out, err = run(name, "--help")
    assert (code, err) == (0, "")
    assert f"Usage: layerscope {name}" in out


PROBE = """
import sys
sys.argv = ["layerscope", *sys.argv[1:]]
import layerscope
try:
    layerscope.main()
finally:
    heavy = {"torch", "mlflow", "matplotlib", "pydantic", "numpy", "pyarrow", "rich", "sklearn"}
    print("loaded:", *sorted(heavy & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("line", "loaded", "code"),
    [
        ("--help", "loaded:", 0),
        ("--version", "loaded:", 0),
        ("train --help", "loaded: pydantic", 0),
        ("lr-find --help", "loaded: pydantic", 0),
        ("train --lr-max 0", "loaded: pydantic", 2),
    ],
)
def test_nothing_heavy_is_imported_for_help_or_a_refusal(line: str, loaded: str, code: int) -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROBE, *line.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stderr.splitlines()[-1] == loaded
    assert result.returncode == code


def test_whoever_looks_at_a_study_waits_neither_for_torch_nor_for_mlflow(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/studies.db"
    optuna.create_study(storage=storage, study_name="S")
    result = subprocess.run(
        [sys.executable, "-c", PROBE, "study", "status", "--name", "T", "--storage", storage],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    refusal, loaded = result.stderr.splitlines()
    assert refusal.startswith("error: no study 'T' in the storage; it has S.")
    assert not {"torch", "mlflow", "matplotlib", "sklearn"} & set(loaded.split())
    assert result.returncode == 2


@pytest.mark.parametrize("command", ["report", "diagnose"])
def test_whoever_reads_a_run_does_not_wait_for_torch(command: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROBE, command, "0" * 32],
        cwd=ROOT,
        env=os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"},
        capture_output=True,
        text=True,
        check=False,
    )
    refusal, loaded = result.stderr.splitlines()[-2:]
    assert refusal.startswith("error: ")
    assert "mlflow" in loaded.split()
    assert "torch" not in loaded.split()
    assert result.returncode == 2


# -- how it ends --


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["trian"], "error: no command 'trian'; there are train, resume, lr-find, study, "),
        (["train", "--lrmax", "1"], "error: No such option '--lrmax'."),
        (["train", "--lr-max"], "error: Option '--lr-max' requires an argument."),
        (["train", "digits"], "error: Got unexpected extra argument"),
    ],
)
def test_a_mistyped_line_is_one_line_of_error(
    run: Callable[..., Any], line: list[str], message: str
) -> None:
    code, out, err = run(*line)
    assert (code, out) == (2, "")
    assert err.startswith(message)
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [(BadDataset("no"), 2), (TrainingFailed("no"), 1), (RecordsWaiting("no"), 3)],
)
def test_an_error_of_our_own_is_one_line_and_its_exit_code(
    run: Callable[..., Any], ends: Callable[[BaseException], None], error: Exception, code: int
) -> None:
    ends(error)
    assert run("train") == (code, "", "error: no\n")


def test_what_failed_beside_it_is_told(
    run: Callable[..., Any], ends: Callable[[BaseException], None]
) -> None:
    error = TrainingFailed("no")
    error.add_note("cleanup_fit failed too: OSError('full')")
    ends(error)
    assert run("train")[2] == "error: no\nnote: cleanup_fit failed too: OSError('full')\n"


def test_an_interrupt(run: Callable[..., Any], ends: Callable[[BaseException], None]) -> None:
    error = KeyboardInterrupt()
    error.add_note("cleanup_fit failed too: OSError('full')")
    ends(error)
    code, out, err = run("train")
    assert (code, out) == (130, "")
    # click begins a new line, for the ^C that a terminal shows
    assert err == "\ninterrupted\nnote: cleanup_fit failed too: OSError('full')\n"


def test_an_error_in_the_code_is_not_hidden(
    run: Callable[..., Any], ends: Callable[[BaseException], None]
) -> None:
    ends(ZeroDivisionError("a mistake of ours"))
    with pytest.raises(ZeroDivisionError):
        run("train")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_terminated_run_ends_as_an_interrupted_one_does(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    cleaned = []

    def train(config: Any) -> None:
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(number)  # a second one does not cut the cleaning short
            cleaned.append(True)

    monkeypatch.setattr("pipelines.commands.train_command", train)
    code, _, _ = run("train")
    assert (code, cleaned) == (128 + number, [True])


def test_the_group_is_the_console_script() -> None:
    assert isinstance(cli, click.Group)
    assert list(cli.list_commands(click.Context(cli))) == list(COMMANDS)
    assert cli.get_command(click.Context(cli), "nothing") is None
