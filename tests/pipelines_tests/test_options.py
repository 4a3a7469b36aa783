"""From what a user gives to a configuration, or to one line that says what is wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import RunConfig
from pipelines.lr_range_config import LrRangeConfig
from pipelines.options import config_from, read_config
from search.config import StudyConfig
from tracking.errors import BadOption

__all__: list[str] = []


def refusal(kind: Any, values: dict[str, Any]) -> str:
    with pytest.raises(BadOption) as caught:
        config_from(kind, values)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr_max": "0"}, "lr_max=0: input should be greater than 0"),
        ({"momentum_max": "1"}, "momentum_max=1: input should be less than 1"),
        ({"pct_start": "1"}, "pct_start=1: input should be less than 1"),
        ({"epochs": 0}, "epochs=0: input should be greater than or equal to 1"),
        ({"lr_max": "nan"}, "lr_max=nan: input should be a finite number"),
        (
            {"epochs": "ten"},
            "epochs=ten: input should be a valid integer, unable to parse string as an integer",
        ),
        ({"norm": "layer"}, "norm=layer: input should be 'batch' or 'none'"),
        (
            {"first_kernel": "4"},
            "first_kernel=4: allowed: odd numbers, so that the image keeps its centre",
        ),
        (
            {"momentum_min": "0.9", "momentum_max": "0.8"},
            (
                "momentum_min=0.9 is above momentum_max=0.8; "
                "momentum is lowest at the peak learning rate"
            ),
        ),
        (
            {"widths": "8,x"},
            "widths=x: input should be a valid integer, unable to parse string as an integer",
        ),
    ],
)
def test_what_was_given_and_what_is_allowed(values: dict[str, Any], message: str) -> None:
    assert refusal(RunConfig, values) == message


def test_several_mistakes_stand_in_one_line() -> None:
    assert refusal(RunConfig, {"epochs": 0, "lr_max": -1}) == (
        "epochs=0: input should be greater than or equal to 1; "
        "lr_max=-1: input should be greater than 0"
    )


def test_a_schedule_that_is_not_there_lists_them_all() -> None:
    message = refusal(RunConfig, {"schedule": "one-cycle"})
    assert message.startswith("schedule=one-cycle: input should be 'one_cycle', ")
    assert message.endswith(" or 'constant'. Did you mean 'one_cycle'?")
    for name in ("flat_cos", "cosine", "warm_restarts", "constant"):
        assert f"'{name}'" in message


def test_an_option_that_is_not_there_suggests_one() -> None:
    assert refusal(RunConfig, {"lrmax": 1}) == "unknown option 'lrmax'. Did you mean 'lr_max'?"
    assert refusal(LrRangeConfig, {"zzz": 1}) == "unknown option 'zzz'."


def test_a_value_with_line_breaks_stays_on_one_line() -> None:
    assert "device" not in refusal(RunConfig, {"norm": "a\nb\r\n c"})
    assert refusal(RunConfig, {"norm": "a\nb"}).startswith("norm=a b: ")


NUMBERS = [
    (kind, name)
    for kind in (RunConfig, LrRangeConfig, StudyConfig)
    for name, field in kind.model_fields.items()
    if re.search(r"\b(int|float)\b", str(field.annotation))
]


def test_the_numbers_are_found() -> None:
    names = {name for _, name in NUMBERS}
    assert names >= {"epochs", "lr_max", "pct_start", "cycles", "widths", "lr_end", "trials"}
    assert not names & {"compile", "every", "norm", "lr_prior", "data_dir"}


@pytest.mark.parametrize(("kind", "name"), NUMBERS)
@pytest.mark.parametrize("value", [True, False])
def test_a_truth_value_is_no_number(kind: Any, name: str, value: bool) -> None:
    given = str(value).lower()
    assert refusal(kind, {name: value}) == f"{name}={given}: allowed: a number, not true or false"


def test_nor_is_one_in_a_list() -> None:
    message = "widths=[8, True]: allowed: a number, not true or false"
    assert refusal(RunConfig, {"widths": [8, True]}) == message


def test_options_that_are_true_or_false_still_are() -> None:
    assert not config_from(RunConfig, {"nesterov": False}).nesterov
    assert refusal(RunConfig, {"norm": True}) == "norm=true: input should be 'batch' or 'none'"


# -- files --


def read(path: Path, text: str) -> dict[str, Any]:
    path.write_text(text, encoding="utf-8")
    return read_config(path)


def test_a_file_of_options(tmp_path: Path) -> None:
    text = "# mine\nlr_max: 1e-2\nwidths: [4, 8]\nepochs: 3\nnorm: none\npct_start: null\n"
    config = config_from(RunConfig, read(tmp_path / "c.yaml", text))
    assert config == RunConfig(lr_max=0.01, widths=(4, 8), epochs=3, norm="none")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("lr_max: [1", "ParserError: while parsing a flow sequence"),
        ("a: b: c", "ScannerError: mapping values are not allowed here"),
        ("\tlr_max: 1", "found character '\\t' that cannot start any token"),
        ("lr_max: !!python/object:os.system {}", "ConstructorError: could not determine"),
    ],
)
def test_a_file_that_is_no_yaml(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(BadOption) as caught:
        read(tmp_path / "c.yaml", text)
    message = str(caught.value)
    assert message.startswith(f"config {tmp_path / 'c.yaml'}: cannot be read (")
    assert reason in message
    assert "line 1" in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["", "- lr_max: 1", "just text", "1: 2", "null"])
def test_a_file_that_is_no_list_of_options(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadOption, match=r"expected lines such as 'lr_max: 0\.01'"):
        read(tmp_path / "c.yaml", text)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"config .*none\.yaml: cannot be read \(FileNotFoundError"):
        read_config(tmp_path / "none.yaml")
    with pytest.raises(BadOption, match=r"cannot be read \(IsADirectoryError"):
        read_config(tmp_path)
    (tmp_path / "latin").write_bytes(b"run_name: caf\xe9")
    with pytest.raises(BadOption, match=r"cannot be read \(UnicodeDecodeError"):
        read_config(tmp_path / "latin")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("lr_max: 0.1\nepochs: 3\nlr_max: 0.2\n", "lr_max is given twice, in lines 1 and 3"),
        ('# mine\n"lr_max": 0.1\n\nlr_max: 0.1\n', "lr_max is given twice, in lines 2 and 4"),
        ("{epochs: 1, epochs: 2}", "epochs is given twice, in lines 1 and 1"),
        ("epochs: {a: 1,\n a: 2}", "a is given twice, in lines 1 and 2"),
    ],
)
def test_a_name_that_is_given_twice(tmp_path: Path, text: str, where: str) -> None:
    with pytest.raises(BadOption) as caught:
        read(tmp_path / "c.yaml", text)
    assert str(caught.value) == f"config {tmp_path / 'c.yaml'}: {where}; give it once"


def test_names_that_only_look_alike(tmp_path: Path) -> None:
    text = "run_name: a\nRun_name: b\nbase: &base {x: 1}\nmore: {<<: *base, x: 2}\n"
    values = read(tmp_path / "c.yaml", text)
    assert values == {"run_name": "a", "Run_name": "b", "base": {"x": 1}, "more": {"x": 2}}


def test_an_unknown_name_in_a_file(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"unknown option 'lr-max'\. Did you mean 'lr_max'\?"):
        config_from(RunConfig, read(tmp_path / "c.yaml", "lr-max: 0.1"))


@pytest.mark.parametrize("value", ["{a: 1}", "[1, 2]", "2024-01-01"])
def test_a_value_of_the_wrong_kind_in_a_file(tmp_path: Path, value: str) -> None:
    values = read(tmp_path / "c.yaml", f"epochs: {value}")
    assert refusal(RunConfig, values).startswith("epochs=")
