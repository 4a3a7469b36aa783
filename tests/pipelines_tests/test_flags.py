"""Flags derive from the configuration: none is missing, none says something else."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from pipelines.config import RunConfig
from pipelines.flags import config_flags
from pipelines.lr_range_config import LrRangeConfig

__all__: list[str] = []

KINDS = pytest.mark.parametrize("kind", [RunConfig, LrRangeConfig])


def command_of(kind: type[BaseModel]) -> click.Command:
    @click.command()
    @config_flags(kind)
    def command(**flags: Any) -> None:
        click.echo(repr({name: value for name, value in flags.items() if value is not None}))

    return command


def options_of(kind: type[BaseModel]) -> dict[str, click.Option]:
    return {p.name: p for p in command_of(kind).params if isinstance(p, click.Option) and p.name}


@KINDS
def test_every_field_has_a_flag_in_the_same_order(kind: type[BaseModel]) -> None:
    options = options_of(kind)
    assert list(options) == list(kind.model_fields)
    for name, option in options.items():
        assert option.opts == [f"--{name.replace('_', '-')}"]


@KINDS
def test_help_shows_text_and_default_of_every_field(kind: type[BaseModel]) -> None:
    result = CliRunner().invoke(command_of(kind), ["--help"], terminal_width=400)
    text = " ".join(result.output.split())
    for name, field in kind.model_fields.items():
        flag = f"--{name.replace('_', '-')} "
        shown = text[text.index(flag) :]
        assert " ".join(str(field.description).split()) in shown, name
        default = field.default
        if isinstance(default, bool):
            default = str(default).lower()
        elif isinstance(default, tuple):
            default = ",".join(map(str, default))
        if default not in {None, ""}:
            words = " ".join(str(field.description).split()[-3:])
            assert re.search(rf"{re.escape(words)} \[{re.escape(str(default))}\]", shown), name


@pytest.mark.parametrize(
    ("name", "metavar"),
    [
        ("epochs", "N"),
        ("cycles", "N"),
        ("lr_max", "X"),
        ("pct_start", "X"),
        ("beta2", "X"),
        ("nesterov", "true|false"),
        ("norm", "batch|none"),
        ("widths", "N,N,..."),
        ("device", "TEXT"),
        ("data_dir", "PATH"),
    ],
)
def test_placeholder_says_what_kind_of_value(name: str, metavar: str) -> None:
    assert options_of(RunConfig)[name].metavar == metavar


def test_flags_pass_text_on_and_nothing_for_what_is_not_given() -> None:
    given = ["--lr-max", "1e-2", "--record", "false", "--widths", "8,16", "--run-name", ""]
    result = CliRunner().invoke(command_of(RunConfig), given)
    expected = {"widths": "8,16", "lr_max": "1e-2", "record": "false", "run_name": ""}
    assert ast.literal_eval(result.output) == expected


def test_defaults_with_no_value_are_not_shown() -> None:
    class Kind(BaseModel):
        root: Path | None = None
        name: str = ""

    assert [option.help for option in options_of(Kind).values()] == ["", ""]


def test_a_switch_alone_means_true() -> None:
    @click.command()
    @config_flags(RunConfig)
    def show(**flags: Any) -> None:
        click.echo(sorted(name + value for name, value in flags.items() if value is not None))

    runner = CliRunner()
    for given in (["--gradients"], ["--gradients", "true"]):
        result = runner.invoke(show, [*given, "--epochs", "2"])
        assert result.output == "['epochs2', 'gradientstrue']\n"
    assert runner.invoke(show, ["--gradients", "false"]).output == "['gradientsfalse']\n"
    assert runner.invoke(show, ["--epochs"]).exit_code == 2
