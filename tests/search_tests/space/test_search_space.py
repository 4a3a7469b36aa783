"""A search space in real Optuna studies: what trials get, and that it can be read back."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.choices import CYCLES, PCT_START
from pipelines.config import RunConfig
from pipelines.options import config_from
from search.space.conditions import is_active
from search.space.search_space import Choice, Range, SearchSpace
from search.space.searchable import SEARCHABLE
from tracking.errors import BadOption

__all__: list[str] = []

BASE = RunConfig()

# Everything at once: every kind of dimension, every condition, clashes with what base sets.
NASTY_BASE = RunConfig(schedule="triangular", pct_start=0.45, cycles=4, accumulate=2)
NASTY = (
    "model=simple_cnn,resnet_small,torchvision:resnet18",
    "optimizer=sgd,adam,adamw",
    "schedule=one_cycle,one_cycle_linear,triangular,flat_cos,cosine,warm_restarts,linear,constant",
    "batch_size=log:1:1000",
    "accumulate=1:8",
    "lr_max=log:1e-5:10",
    "div=1:100:9",
    "final_div=log:1:1e6",
    "pct_start=0.001:0.5",
    "cycles=1:5",
    "cycle_mult=1,1.5,2",
    "momentum_max=0:0.99",
    "momentum_drop=0:0.99",
    "nesterov=true,false",
    "beta2=0.9:0.999",
    "eps=log:1e-8:1e-2",
    "weight_decay=0:0.1:0.03",
    "decay_norm_bias=true,false",
    "label_smoothing=0:0.2",
    "clip_norm=0,1",
    "augment=none,flip",
    "erase=0:0.5",
    "widths=8,16;16,32,64",
    "first_kernel=3:7:2",
    "norm=batch,none",
    "activation=relu,gelu",
    "downsample=stride,max",
    "head=gap,linear",
    "init=default,kaiming",
    "precision=fp32,bf16",
    "channels_last=true,false",
)


def nasty() -> SearchSpace:
    return SearchSpace.read(NASTY)


def trials(
    space: SearchSpace,
    base: RunConfig,
    count: int,
    sampler: optuna.samplers.BaseSampler | None = None,
) -> list[tuple[optuna.trial.FrozenTrial, dict[str, Any]]]:
    """Finished trials, and what suggest returned for each."""
    found: list[dict[str, Any]] = []

    def objective(trial: optuna.Trial) -> float:
        found.append(space.suggest(trial, base))
        return found[-1].get("lr_max", 0.0) + found[-1].get("batch_size", 0.0)

    study = optuna.create_study(sampler=sampler or optuna.samplers.RandomSampler(seed=1))
    study.optimize(objective, n_trials=count)
    return list(zip(study.trials, found, strict=True))


def trial_config(base: RunConfig, overrides: dict[str, Any]) -> RunConfig:
    return config_from(RunConfig, base.model_dump() | overrides)


def only(name: str, dimension: Any, **others: Any) -> SearchSpace:
    return SearchSpace({name: dimension, **others})


def overrides_of(space: SearchSpace, params: dict[str, Any], base: RunConfig) -> dict[str, Any]:
    """What a trial with these parameters is given."""
    return space.suggest(optuna.trial.FixedTrial(params), base)


# -- reading and judging --


@pytest.mark.parametrize("base", [BASE, RunConfig(optimizer="sgd"), RunConfig(schedule="constant")])
def test_the_default_space_is_fit_for_any_base(base: RunConfig) -> None:
    SearchSpace.read().check(base)


def test_the_default_run_lies_inside_the_default_space() -> None:
    space = SearchSpace.read()
    for schedule in ("one_cycle", "flat_cos", "linear", "cosine"):
        base = RunConfig(schedule=schedule).resolved()
        params = space.params(base.model_dump(), BASE)
        again = trial_config(BASE, overrides_of(space, params, BASE))
        names = [*space.dimensions.keys() - {"momentum_drop"}, "momentum_min"]
        for name in names:
            value = getattr(base, name)
            expected = value if isinstance(value, str | None) else pytest.approx(value)
            assert getattr(again, name) == expected, name


def test_the_nasty_space_has_everything_but_what_goes_with_nothing() -> None:
    assert set(nasty().dimensions) == set(SEARCHABLE) - {"momentum_min"}
    nasty().check(NASTY_BASE)


@pytest.mark.parametrize("dimensions", [{}, {"lr_max": Range(1.0, 0.1)}, {"lr_mx": Choice((1, 2))}])
def test_a_space_that_was_built_wrong(dimensions: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match=r"^space"):
        SearchSpace(dimensions).check(BASE)


def test_check_looks_at_the_dimensions_beside_each_other() -> None:
    with pytest.raises(BadOption, match=r"^space pct_start=.*no meaning for schedule=cosine"):
        SearchSpace.read(["pct_start=0.1:0.5"]).check(RunConfig(schedule="cosine"))


def test_a_file_and_texts(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(
        "lr_max: {low: 1e-3, high: 1, log: true}\n"
        "batch_size: [64, 128]\n"
        "cycles: 1:5\n"
        "widths: [[8, 16], '16,32']\n"
        "nesterov: [true, false]\n"
        "div: 0:oops\n",
        encoding="utf-8",
    )
    space = SearchSpace.read(["div=5:50", "batch_size=32,64"], path, "none")
    assert space.describe() == {
        "batch_size": "32,64",
        "lr_max": "log:0.001:1",
        "div": "5:50",
        "cycles": "1:5",
        "nesterov": "true,false",
        "widths": "8,16;16,32",
    }
    assert space.lr_scaling == "none"
    assert space.dimensions["nesterov"] == Choice((True, False))
    with pytest.raises(BadOption, match=r"^space div=0:oops: expected numbers"):
        SearchSpace.read((), path)


def test_reading_imports_nothing_heavy() -> None:
    code = (
        "import sys; from search.space.search_space import SearchSpace; "
        "from pipelines.config import RunConfig; "
        "SearchSpace.read().check(RunConfig()); "
        "assert not {'optuna', 'torch', 'mlflow', 'numpy'} & set(sys.modules), 'heavy'"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# -- trials --

SPACES: list[tuple[Callable[[], SearchSpace], RunConfig]] = [
    (SearchSpace.read, BASE),
    (SearchSpace.read, RunConfig(optimizer="sgd", schedule="flat_cos", pct_start=0.6)),
    (nasty, NASTY_BASE),
]


@pytest.mark.parametrize(("make", "base"), SPACES)
def test_every_trial_is_a_run_that_is_allowed(
    make: Callable[[], SearchSpace], base: RunConfig
) -> None:
    space = make()
    known = space.distributions(base)
    for trial, overrides in trials(space, base, 200):
        config = trial_config(base, overrides)
        json.dumps(overrides)
        # No more than what has an effect, and all of that.
        expected = {
            space.parameter(name, base)
            for name in space.dimensions
            if is_active(name, config.model_dump())
        }
        assert set(trial.params) == expected
        assert trial.distributions.items() <= known.items()
        assert overrides_of(space, trial.params, base) == overrides


def test_every_schedule_was_among_the_trials() -> None:
    """So that the test above has seen them all."""
    seen = [overrides for _, overrides in trials(nasty(), NASTY_BASE, 200)]
    assert len({overrides["schedule"] for overrides in seen}) == 8
    assert len({overrides["model"] for overrides in seen}) == 3
    assert 0.0 in {overrides.get("momentum_min") for overrides in seen}


def test_tpe_learns_on_a_conditional_space() -> None:
    sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=4)
    for trial, overrides in trials(nasty(), NASTY_BASE, 10, sampler):
        trial_config(NASTY_BASE, overrides)
        assert overrides_of(nasty(), trial.params, NASTY_BASE) == overrides


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "constant"])
def test_a_schedule_that_cannot_have_what_base_sets_resets_it(schedule: str) -> None:
    space = only("schedule", Choice((schedule, "triangular")))
    base = RunConfig(schedule="triangular", pct_start=0.3, cycles=2)
    overrides = overrides_of(space, {"schedule": schedule}, base)
    expected: dict[str, Any] = {"schedule": schedule}
    expected |= {} if schedule in PCT_START else {"pct_start": None}
    expected |= {} if schedule in CYCLES else {"cycles": None}
    assert overrides == expected
    trial_config(base, overrides)


def test_a_seed_repeats_a_study_whatever_the_order_of_the_space() -> None:
    texts = [
        "pct_start=0.1:0.5",
        "lr_max=log:1e-3:1",
        "batch_size=32,64",
        "schedule=linear,cosine",
    ]
    runs = [
        [
            overrides
            for _, overrides in trials(
                SearchSpace.read(order), BASE, 20, optuna.samplers.RandomSampler(seed=7)
            )
        ]
        for order in (texts, texts, texts[::-1])
    ]
    assert runs[0] == runs[1] == runs[2]
    assert len({overrides["lr_max"] for overrides in runs[0]}) == 20


def test_conditions_are_suggested_first() -> None:
    (trial, _), *_ = trials(nasty(), NASTY_BASE, 1)
    assert list(trial.params)[:4] == ["model", "optimizer", "schedule", "batch_size"]


def test_momentum_never_falls_below_zero() -> None:
    space = SearchSpace.read(["momentum_max=0.3:0.9", "momentum_drop=0:0.5"])
    overrides = overrides_of(space, {"momentum_max": 0.3, "momentum_drop": 0.5}, BASE)
    assert overrides == {"momentum_max": 0.3, "momentum_min": 0.0}


def test_a_drop_from_the_momentum_that_base_sets() -> None:
    space = SearchSpace.read(["momentum_drop=0:0.5"])
    assert overrides_of(space, {"momentum_drop": 0.25}, BASE) == {
        "momentum_min": pytest.approx(0.7)
    }


# -- learning rate and batch size --

LR = Range(0.001, 1.0, log=True)
BATCHES = Choice((16, 64, 256))
OPTIMIZERS = Choice(("sgd", "adam", "adamw"))


@pytest.mark.parametrize(
    ("scaling", "optimizer", "factor"),
    [
        ("linear", "adamw", 4.0),
        ("sqrt", "sgd", 2.0),
        ("auto", "sgd", 4.0),
        ("auto", "adam", 2.0),
        ("auto", "adamw", 2.0),
    ],
)
def test_the_learning_rate_moves_with_the_batch_size(
    scaling: Any, optimizer: str, factor: float
) -> None:
    dimensions = {"lr_max": LR, "batch_size": BATCHES, "optimizer": OPTIMIZERS}
    space = SearchSpace(dimensions, scaling)
    assert set(space.distributions(BASE)) == {"lr_max@64", "batch_size", "optimizer"}
    for batch_size, expected in ((64, 0.1), (256, 0.1 * factor), (16, 0.1 / factor)):
        params = {"lr_max@64": 0.1, "batch_size": batch_size, "optimizer": optimizer}
        overrides = overrides_of(space, params, BASE)
        assert overrides["lr_max"] == pytest.approx(expected)
        assert space.params(overrides, BASE) == pytest.approx(params)


def test_the_optimizer_that_base_sets_decides_too() -> None:
    space = SearchSpace({"lr_max": LR, "batch_size": BATCHES})
    params = {"lr_max@64": 0.1, "batch_size": 256}
    assert overrides_of(space, params, RunConfig(optimizer="sgd"))["lr_max"] == pytest.approx(0.4)
    assert overrides_of(space, params, RunConfig(optimizer="adam"))["lr_max"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    "space",
    [
        SearchSpace({"lr_max": LR, "batch_size": BATCHES}, "none"),
        SearchSpace({"lr_max": LR}),
        SearchSpace({"lr_max": Choice((0.1, 0.2)), "batch_size": BATCHES}),
    ],
)
def test_where_the_learning_rate_stands_for_itself(space: SearchSpace) -> None:
    assert "lr_max" in space.distributions(BASE)
    assert overrides_of(space, {"lr_max": 0.1, "batch_size": 256}, BASE)["lr_max"] == 0.1
    assert space.params({"lr_max": 0.1, "batch_size": 256}, BASE)["lr_max"] == 0.1


def test_accumulated_batches_count_as_one() -> None:
    base = RunConfig(batch_size=32, accumulate=4)
    fixed = SearchSpace({"lr_max": LR, "batch_size": BATCHES}, "linear")
    params = {"lr_max@32": 0.1, "batch_size": 64}
    assert overrides_of(fixed, params, base)["lr_max"] == pytest.approx(0.2)
    searched = SearchSpace({"lr_max": LR, "accumulate": Choice((1, 8))}, "linear")
    assert overrides_of(searched, {"lr_max@32": 0.1, "accumulate": 8}, base)["lr_max"] == (
        pytest.approx(0.2)
    )


@given(lr=st.floats(1e-6, 1e3), ends=st.tuples(st.floats(1e-8, 1e-3), st.floats(1e-2, 1e4)))
def test_a_centred_range_is_as_wide_as_before(lr: float, ends: tuple[float, float]) -> None:
    space = SearchSpace({"lr_max": Range(*ends, log=True), "div": Range(1.0, 5.0)})
    moved = space.centred(lr)
    dimension = moved.dimensions["lr_max"]
    assert isinstance(dimension, Range)
    assert dimension.log
    # The ends are rounded to four digits.
    assert (dimension.low * dimension.high) ** 0.5 == pytest.approx(lr, rel=1e-3)
    assert dimension.high / dimension.low == pytest.approx(ends[1] / ends[0], rel=2e-3)
    assert moved.dimensions["div"] == space.dimensions["div"]
    moved.check(BASE)


@pytest.mark.parametrize("dimension", [Range(0.1, 1.0), Choice((0.1, 0.2)), None])
def test_what_cannot_be_centred_stays(dimension: Any) -> None:
    space = SearchSpace({"div": Range(1.0, 5.0)} | ({"lr_max": dimension} if dimension else {}))
    assert space.centred(0.5) is space


@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan"), float("inf")])
def test_no_centre(lr: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        SearchSpace({"lr_max": LR}).centred(lr)


# -- enqueued trials --


def test_enqueued_values_are_clipped_or_left_out() -> None:
    space = SearchSpace.read(
        [
            "lr_max=log:1e-3:1",
            "momentum_drop=0:0.2",
            "batch_size=log:16:128",
            "schedule=linear,cosine",
            "pct_start=0.1:0.5",
            "optimizer=adam,adamw",
        ],
        lr_scaling="none",
    )
    wanted = {
        "lr_max": "7",
        "momentum_min": 0.1,
        "batch_size": "4096",
        "schedule": "constant",
        "pct_start": None,
        "optimizer": "adam",
        "div": 7,
        "epochs": 3,
    }
    params = space.params(wanted, BASE)
    assert params == {"batch_size": 128, "lr_max": 1.0, "optimizer": "adam"}
    assert space.params({"momentum_min": 0.1}, BASE) == {"momentum_drop": 0.2}
    assert space.params({"pct_start": 0.3}, BASE) == {"pct_start": 0.3}
    assert space.params({"pct_start": 0.3, "schedule": "cosine"}, BASE) == {"schedule": "cosine"}


def test_an_enqueued_value_that_no_run_takes() -> None:
    with pytest.raises(BadOption, match="lr_max=-1"):
        SearchSpace.read().params({"lr_max": -1}, BASE)


def test_the_rate_of_the_range_test_is_tried_first() -> None:
    space = SearchSpace.read().centred(0.03)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(space.params({"lr_max": 0.03, "batch_size": 64}, BASE))
    overrides = space.suggest(study.ask(), BASE)
    assert overrides["lr_max"] == pytest.approx(0.03)
    assert overrides["batch_size"] == 64


def test_the_parameters_of_a_trial_are_found_from_its_options() -> None:
    space = nasty()
    for trial, overrides in trials(space, NASTY_BASE, 50):
        found = space.params(overrides, NASTY_BASE)
        expected = dict(trial.params)
        if overrides.get("momentum_min") == 0.0:  # the drop went further than momentum can
            expected["momentum_drop"] = expected["momentum_max"]
        assert found == pytest.approx(expected)
        again = overrides_of(space, found, NASTY_BASE)
        assert trial_config(NASTY_BASE, again).widths == (
            trial_config(NASTY_BASE, overrides).widths
        )


# -- grids --


def test_a_grid_of_values() -> None:
    space = SearchSpace.read(["lr_max=0.1,0.01", "schedule=linear,cosine", "nesterov=true,false"])
    base = RunConfig(optimizer="sgd")
    grid = space.grid(base)
    assert grid == {
        "schedule": ["linear", "cosine"],
        "lr_max": [0.1, 0.01],
        "nesterov": [True, False],
    }
    found = trials(space, base, 8, optuna.samplers.GridSampler(grid, seed=0))
    assert len({tuple(overrides.items()) for _, overrides in found}) == 8


def test_a_grid_needs_values() -> None:
    space = SearchSpace.read(["lr_max=log:0.1:1", "schedule=linear,cosine", "div=2:5"])
    with pytest.raises(BadOption) as caught:
        space.grid(BASE)
    assert str(caught.value).startswith(
        "space lr_max=log:0.1:1, div=2:5: a grid needs values, not ranges"
    )


# -- stored and read back --


@pytest.mark.parametrize("make", [SearchSpace.read, nasty])
def test_a_space_survives_json_and_its_own_text(make: Callable[[], SearchSpace]) -> None:
    space = make()
    stored = json.loads(json.dumps(space.to_dict()))
    assert SearchSpace.from_dict(stored) == space
    texts = [f"{name}={text}" for name, text in space.describe().items()]
    assert SearchSpace.read(texts) == space
    assert space.differences(SearchSpace.from_dict(stored)) == []


def test_a_centred_space_survives_json_exactly() -> None:
    space = SearchSpace.read().centred(1 / 3)
    assert SearchSpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space


def test_differences_say_what_is_where() -> None:
    here = SearchSpace.read(["lr_max=log:1e-3:1", "div=2:5", "batch_size=32,64"])
    study = SearchSpace.read(
        ["lr_max=log:1e-4:1", "batch_size=64,32", "eps=1e-8,1e-5"], lr_scaling="sqrt"
    )
    assert here.differences(study) == [
        "batch_size: 32,64 here, 64,32 in the study",
        "lr_max: log:0.001:1 here, log:0.0001:1 in the study",
        "div: 2:5 here, not in the study",
        "lr_scaling: auto here, sqrt in the study",
        "eps: not here, 1e-08,1e-05 in the study",
    ]
