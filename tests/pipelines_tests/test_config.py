"""RunConfig: what is allowed, what is filled in, and that a file gives back what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from pipelines.choices import CYCLES, PCT_START
from pipelines.config import RunConfig
from pipelines.lr_range_config import LrRangeConfig
from pipelines.options import config_from, read_config
from tracking.errors import BadOption

__all__: list[str] = []

EVERY_OPTION: dict[str, Any] = {
    "dataset": "folder:/some/where",
    "data_dir": Path("/else/where"),
    "image_size": 32,
    "valid_fraction": 0.25,
    "test_fraction": 0.3,
    "train_limit": 1000,
    "augment": "crop-flip",
    "erase": 0.125,
    "model": "my.models:make",
    "widths": (3, 5, 7),
    "first_kernel": 7,
    "norm": "none",
    "activation": "gelu",
    "downsample": "avg",
    "head": "gap",
    "init": "kaiming",
    "epochs": 7,
    "batch_size": 33,
    "accumulate": 3,
    "optimizer": "sgd",
    "nesterov": False,
    "weight_decay": 1e-4,
    "decay_norm_bias": True,
    "beta2": 0.999,
    "eps": 1e-8,
    "label_smoothing": 0.1,
    "clip_norm": 1.5,
    "patience": 4,
    "schedule": "triangular",
    "lr_max": 0.3,
    "div": 10.0,
    "final_div": 1e4,
    "pct_start": 0.3,
    "cycles": 2,
    "cycle_mult": 1.5,
    "momentum_max": 0.9,
    "momentum_min": 0.8,
    "seed": 12345,
    "device": "cuda:1",
    "precision": "bf16",
    "channels_last": False,
    "compile": True,
    "threads": 2,
    "record": True,
    "layers": r"conv\d\.relu",
    "every": "auto:0.05",
    "record_eval": True,
    "near_zero_eps": 0.01,
    "above_threshold": -2.5,
    "gradients": True,
    "updates": True,
    "experiment": "mine",
    "run_name": "123",
    "report": False,
    "diagnose": True,
    "stop_on": "critical",
    "thresholds": "dead_units.share=0.5",
    "checkpoint": False,
    "log_model": False,
}


def refusal(**options: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        RunConfig(**options)
    return str(caught.value)


# -- bad values --


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("lr_max", [0, -0.1, float("nan"), float("inf"), "fast", ""]),
        ("momentum_max", [1, 1.5, -0.1]),
        ("momentum_min", [1, -0.1]),
        ("pct_start", [0, 1, -0.5, 2]),
        ("epochs", [0, -1, 1.5, "many"]),
        ("batch_size", [0, -8]),
        ("accumulate", [0]),
        ("valid_fraction", [-0.1, 1, float("nan")]),
        ("test_fraction", [0, 1]),
        ("train_limit", [-1]),
        ("image_size", [-1, 4097]),
        ("erase", [-0.1, 1.1]),
        ("label_smoothing", [1, -0.1]),
        ("clip_norm", [-1]),
        ("weight_decay", [-0.1]),
        ("beta2", [1]),
        ("eps", [0]),
        ("div", [0.5]),
        ("final_div", [0.5, float("inf")]),
        ("cycles", [0]),
        ("cycle_mult", [0.9]),
        ("seed", [-1, 2**32]),
        ("first_kernel", [0, 4]),
        ("widths", ["", "8,", "8,x", (), (0,), "8;16", None]),
        ("every", ["0", "-1", "auto:0", "auto:1", "auto:", "auto:x", "1.5", "often", 0, True, 1.5]),
        ("near_zero_eps", [-0.1, float("nan")]),
        ("above_threshold", [float("nan")]),
        ("norm", ["group"]),
        ("activation", ["softmax", "RELU"]),
        ("schedule", ["one-cycle", ""]),
        ("optimizer", ["lamb"]),
        ("precision", ["fp8"]),
        ("nesterov", ["perhaps"]),
        ("patience", [-1]),
        ("threads", [-1, 99_999]),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_by_name(name: str, values: list[Any]) -> None:
    for value in values:
        assert f"\n{name}" in refusal(**{"schedule": "triangular", name: value}), value


@pytest.mark.parametrize(
    ("name", "value", "suggestion"),
    [
        ("dataset", "digit", "'digits'"),
        ("dataset", "fashion_mnist", "'fashion-mnist'"),
        ("model", "simple-cnn", "'simple_cnn'"),
        ("model", "resnet_smal", "'resnet_small'"),
    ],
)
def test_an_unknown_name_suggests_one(name: str, value: str, suggestion: str) -> None:
    assert f"package.module:factory. Did you mean {suggestion}?" in refusal(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dataset", "folder:"),
        ("dataset", "somewhere/else"),
        ("dataset", "my module:make"),
        ("model", "torchvision:"),
        ("model", "resnet18"),
        ("model", "my.module:"),
    ],
)
def test_half_a_name_lists_what_is_allowed(name: str, value: str) -> None:
    message = refusal(**{name: value})
    assert "allowed: " in message
    assert ("digits" if name == "dataset" else "simple_cnn") in message


def test_options_that_contradict_each_other() -> None:
    assert "momentum_min=0.9 is above momentum_max=0.8" in refusal(
        momentum_min=0.9, momentum_max=0.8
    )
    assert "pct_start has no meaning for schedule=cosine" in refusal(
        schedule="cosine", pct_start=0.3
    )
    assert "schedules that have it: triangular, warm_restarts" in refusal(cycles=2)
    assert "leaves no room for the fall" in refusal(schedule="one_cycle_linear", pct_start=0.6)
    assert "patience=3 waits for a better validation loss" in refusal(patience=3, valid_fraction=0)


def test_the_constant_schedule_has_no_lower_momentum() -> None:
    assert RunConfig(schedule="constant", momentum_max=0.5).momentum_max == 0.5


def test_all_may_be_for_training_where_nothing_waits_for_validation() -> None:
    assert RunConfig(valid_fraction="0").valid_fraction == 0
    assert config_from(RunConfig, RunConfig(valid_fraction=0).flat()).valid_fraction == 0
    with pytest.raises(BadOption, match="valid_fraction=0 leaves no validation; allowed: pat"):
        config_from(RunConfig, {"valid_fraction": "0", "patience": "1"})


def test_unknown_options_and_changes_are_refused() -> None:
    assert "learning_rate" in refusal(learning_rate=0.1)
    with pytest.raises(ValidationError, match="frozen"):
        RunConfig().epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr_start": 1.0, "lr_end": 0.1}, "lr_start=1.0 must be below lr_end=0.1"),
        ({"lr_start": 1.0, "lr_end": 1.0}, "must be below"),
        ({"lr_start": 0}, "greater than 0"),
        ({"lr_steps": 9}, "greater than or equal to 10"),
    ],
)
def test_range_test_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LrRangeConfig(**options)


# -- spellings --


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("epochs", "05", 5),
        ("epochs", "5.0", 5),
        ("lr_max", "1e-2", 0.01),
        ("lr_max", " .5 ", 0.5),
        ("widths", "8,16", (8, 16)),
        ("widths", " 8, 16 ", (8, 16)),
        ("widths", "8", (8,)),
        ("widths", 8, (8,)),
        ("widths", [8, 16], (8, 16)),
        ("nesterov", "false", False),
        ("nesterov", "1", True),
        ("every", "05", "5"),
        ("every", 3, "3"),
        ("every", "auto:.05", "auto:.05"),
        ("data_dir", "some/where", Path("some/where")),
        ("train_limit", "1_000", 1000),
        ("model", "torchvision:resnet18", "torchvision:resnet18"),
        ("model", "a.b_c:d1", "a.b_c:d1"),
        ("dataset", "folder:some where", "folder:some where"),
    ],
)
def test_text_is_understood(name: str, text: Any, value: Any) -> None:
    assert getattr(RunConfig(**{name: text}), name) == value


# -- what is filled in --


@pytest.mark.parametrize("schedule", RunConfig.model_fields["schedule"].annotation.__args__)
def test_resolving_fills_in_what_the_schedule_needs(schedule: str) -> None:
    resolved = RunConfig(schedule=schedule).resolved()
    assert resolved.pct_start == PCT_START.get(schedule)
    assert resolved.cycles == CYCLES.get(schedule)
    assert resolved.resolved() == resolved
    assert RunConfig(**resolved.model_dump()) == resolved


def test_resolving_keeps_what_was_given() -> None:
    given = RunConfig(schedule="triangular", pct_start=0.2, cycles=7)
    assert given.resolved() == given


def test_flat_parameters() -> None:
    flat = RunConfig(widths=(3, 4), lr_max=0.1, record=False, run_name="").flat()
    assert flat["widths"] == "3,4"
    assert (flat["lr_max"], flat["record"], flat["run_name"]) == ("0.1", "false", "")
    assert flat["pct_start"] == "0.25"  # resolved
    assert set(RunConfig.model_fields) - set(flat) == {"cycles"}  # none in this schedule
    assert all(isinstance(value, str) for value in flat.values())


def test_flat_parameters_give_the_configuration_back() -> None:
    config = RunConfig(**EVERY_OPTION)
    assert config_from(RunConfig, config.flat()) == config


# -- files --


def test_the_list_of_every_option_is_complete() -> None:
    assert EVERY_OPTION.keys() == RunConfig.model_fields.keys()
    default = RunConfig()
    same = {name for name, value in EVERY_OPTION.items() if getattr(default, name) == value}
    assert same == {"record", "diagnose"}  # stop_on needs them


@pytest.mark.parametrize("options", [{}, EVERY_OPTION], ids=["default", "every option"])
def test_a_file_gives_back_what_was_written(tmp_path: Path, options: dict[str, Any]) -> None:
    config = RunConfig(**options)
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml(), encoding="utf-8")
    assert config_from(RunConfig, read_config(file)) == config


def test_a_file_lets_a_flag_change_the_schedule() -> None:
    values = yaml.safe_load(RunConfig(epochs=3).to_yaml())
    changed = RunConfig(**(values | {"schedule": "flat_cos"}))
    assert changed.resolved().pct_start == PCT_START["flat_cos"]
    assert RunConfig(**(values | {"schedule": "constant"})).epochs == 3


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "lr_max": st.floats(1e-300, 1e300, exclude_min=True),
            "weight_decay": st.floats(0, 10),
            "run_name": st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
            "experiment": st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
            "widths": st.lists(st.integers(1, 999), min_size=1).map(tuple),
            "seed": st.integers(0, 2**32 - 1),
            "layers": st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        },
    )
)
def test_yaml_and_parameters_lose_nothing(options: dict[str, Any]) -> None:
    config = RunConfig(**options)
    assert RunConfig(**yaml.safe_load(config.to_yaml())) == config
    assert config.flat()["lr_max"] == str(config.lr_max)
    assert float(config.flat()["lr_max"]) == config.lr_max


# -- help --


@pytest.mark.parametrize("kind", [RunConfig, LrRangeConfig])
def test_every_option_has_a_help_text_and_a_default(kind: type[BaseModel]) -> None:
    for name, field in kind.model_fields.items():
        assert field.description, name
        assert field.description.rstrip().endswith("."), name
        assert not field.is_required(), name


def test_options_of_the_range_test_have_names_of_their_own() -> None:
    assert not LrRangeConfig.model_fields.keys() & RunConfig.model_fields.keys()


@pytest.mark.parametrize("off", [{"diagnose": False}, {"record": False}])
def test_stopping_on_findings_needs_findings(off: dict[str, bool]) -> None:
    with pytest.raises(ValidationError, match="stop_on=critical needs diagnose=true"):
        RunConfig(stop_on="critical", **off)
