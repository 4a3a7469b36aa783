"""The two commands: what reaches the work behind them, from flags and from a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pipelines.commands
from layerscope import cli
from pipelines.config import RunConfig
from pipelines.lr_range_config import LrRangeConfig
from tracking.errors import BadOption

__all__: list[str] = []

Run = Callable[..., Any]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command line up to the work itself; returns what that would be given."""

    def go(*arguments: str) -> Any:
        given: list[Any] = []
        for name in ("train_command", "lr_find_command"):
            monkeypatch.setattr(pipelines.commands, name, lambda *args: given.extend(args))
        cli(list(arguments), standalone_mode=False)
        return given[0] if len(given) == 1 else given

    return go


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "config.yaml"
    path.write_text("lr_max: 0.5\nepochs: 7\nwidths: [4, 8]\nnorm: none\n", encoding="utf-8")
    return str(path)


def test_no_flag_is_the_default(run: Run) -> None:
    assert run("train") == RunConfig()


def test_flags_with_dashes_and_with_underscores(run: Run) -> None:
    expected = RunConfig(lr_max=0.1, momentum_min=0.8, batch_size=32)
    for line in (
        ["--lr-max", "0.1", "--momentum-min", "0.8", "--batch-size", "32"],
        ["--lr_max", "0.1", "--momentum_min", "0.8", "--batch_size", "32"],
        ["--lr_max=1e-1", "--momentum-min=.8", "--batch_size=032"],
    ):
        assert run("train", *line) == expected


def test_commands_go_by_their_mlflow_names_too(run: Run) -> None:
    assert run("lr_find") == run("lr-find") == [RunConfig(), LrRangeConfig()]


def test_the_last_flag_counts(run: Run) -> None:
    assert run("train", "--epochs", "3", "--epochs", "4").epochs == 4


def test_every_field_can_be_given(run: Run) -> None:
    for name, field in RunConfig.model_fields.items():
        value = field.default if field.default not in {None, ""} else ""
        if name in {"pct_start", "cycles"}:
            continue
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        assert run("train", f"--{name}", text) == RunConfig()
    triangular = run("train", "--schedule", "triangular", "--pct-start", "0.4", "--cycles", "2")
    assert triangular == RunConfig(schedule="triangular", pct_start=0.4, cycles=2)


def test_flags_override_the_file(run: Run, file: str) -> None:
    config = run("train", "--config", file, "--epochs", "2")
    assert config == RunConfig(lr_max=0.5, epochs=2, widths=(4, 8), norm="none")


def test_a_flag_equal_to_the_default_overrides_the_file(run: Run, file: str) -> None:
    assert run("train", "--config", file, "--lr-max", "0.01").lr_max == 0.01


def test_the_range_test_takes_options_of_both_kinds(run: Run, file: str) -> None:
    config, options = run("lr-find", "--config", file, "--lr-steps", "50", "--seed", "3")
    assert config == RunConfig(lr_max=0.5, epochs=7, widths=(4, 8), norm="none", seed=3)
    assert options == LrRangeConfig(lr_steps=50)


def test_the_range_test_takes_its_own_options_from_a_file(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("lr_end: 2.0\nepochs: 2\n", encoding="utf-8")
    config, options = run("lr-find", "--config", str(path))
    assert (config, options) == (RunConfig(epochs=2), LrRangeConfig(lr_end=2.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--lr-max", "0"], "lr_max=0: input should be greater than 0"),
        (["train", "--config", "none.yaml"], "config none.yaml: cannot be read"),
        (["lr-find", "--lr-steps", "3"], "lr_steps=3: input should be greater than or equal to 10"),
        (["lr-find", "--epochs", "0"], "epochs=0: "),
        (["lr-find", "--lr-start", "5", "--lr-end", "1"], "lr_start=5.0 must be below lr_end=1.0"),
    ],
)
def test_a_bad_option_is_refused_before_any_work(
    run: Run, arguments: list[str], message: str
) -> None:
    with pytest.raises(BadOption, match=message):
        run(*arguments)
