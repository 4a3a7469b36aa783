"""What a comparison compares: read, refused, named, and asked of trials."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from pipelines.config import LOCAL_OPTIONS, RunConfig
from search.config import CompareConfig
from search.definition import StudyDefinition, comparison_definition
from search.space.compared import FACTORS, Compared
from search.space.searchable import REFUSED
from tracking.errors import BadOption

__all__: list[str] = []


def refusal(factor: str, values: str, given: dict[str, Any] | None = None, **own: Any) -> str:
    options = CompareConfig(factor=factor, values=values, **own)
    with pytest.raises(BadOption) as caught:
        comparison_definition(options, RunConfig(**(given or {})), given or {}).check()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_values_are_read_as_options() -> None:
    assert Compared.read("batch_size", "64, 128").values == (64, 128)
    assert Compared.read("lr_max", "1e-2,0.03").values == (0.01, 0.03)
    assert Compared.read("nesterov", "true,false").values == (True, False)
    assert Compared.read("widths", "8,16;4,8").values == ("8,16", "4,8")
    assert Compared.read("norm", "batch,none").texts() == ["batch", "none"]


def test_every_option_of_a_training_is_a_factor_or_is_refused() -> None:
    machine = {*REFUSED} - {"epochs", "train_limit", "image_size"}
    assert {*FACTORS} | machine == set(RunConfig.model_fields)
    assert not {*FACTORS} & machine


def test_there_are_only_so_many_seeds() -> None:
    last = {"seed": 2**32 - 5}
    assert refusal("norm", "batch,none", last, seeds=6) == (
        "seed=4294967291: with seeds=6 the last one would be 4,294,967,296; allowed is a seed up "
        "to 4294967290"
    )
    options = CompareConfig(factor="norm", values="batch,none", seeds=5)
    comparison_definition(options, RunConfig(**last), last).check()


def test_the_factors_default_need_not_go_with_the_other_options() -> None:
    """momentum_min is 0.85 unless it is given, and no run of this comparison has it."""
    compared = Compared.read("momentum_min", "0.6,0.7")
    base = RunConfig(**compared.base_options({"momentum_max": 0.75}))
    compared.check(base)
    assert base.momentum_min == 0.6
    # lr_max is that of the batch size that is not given.
    assert Compared.read("batch_size", "16,32", "auto").base_options({}) == {}


@pytest.mark.parametrize(
    ("factor", "values", "given", "own", "message"),
    [
        ("", "1,2", {}, {}, "factor is missing; name the option to compare: --factor norm"),
        ("nrm", "a,b", {}, {}, "factor=nrm: cannot be compared. Did you mean 'norm'?"),
        ("seed", "1,2", {}, {}, "factor=seed: cannot be compared. Allowed: model, "),
        (
            "norm",
            "",
            {},
            {},
            "values=: a comparison needs two values or more, such as --values A,B",
        ),
        ("norm", "batch", {}, {}, "values=batch: a comparison needs two values or more"),
        ("norm", "batch,batch", {}, {}, "values=batch,batch: batch is given twice"),
        ("lr_max", "0.1,1e-1", {}, {}, "values=0.1,1e-1: 0.1 is given twice"),
        ("norm", "batch,x", {}, {}, "values=batch,x: norm=x: input should be 'batch' or 'none'"),
        ("norm", "batch,none", {"norm": "none"}, {}, "norm is the factor, and given as an option"),
        ("norm", "batch,none", {"model": "resnet_small"}, {}, "factor=norm: has no meaning for "),
        ("pct_start", "0.1,0.2", {"schedule": "constant"}, {}, "pct_start=0.1: pct_start has no "),
        ("momentum_max", "0.5,0.9", {}, {}, "momentum_max=0.5: "),
        ("norm", "batch,none", {"valid_fraction": 0}, {}, "valid_fraction=0: a comparison needs "),
        ("norm", "batch,none", {}, {"lr_scaling": "sqrt"}, "lr_scaling=sqrt: goes with "),
    ],
)
def test_what_is_refused(
    factor: str, values: str, given: dict[str, Any], own: dict[str, Any], message: str
) -> None:
    assert refusal(factor, values, given, **own).startswith(message)


def test_the_name_is_that_of_the_comparison() -> None:
    def name(base: dict[str, Any] | None = None, **own: Any) -> str:
        options = CompareConfig(**({"factor": "norm", "values": "batch,none"} | own))
        return comparison_definition(options, RunConfig(**(base or {})), ()).options.name

    assert name().startswith("norm-")
    same = [{"seeds": 9, "workers": 2}, {"heartbeat": 5}]
    assert {name(**own) for own in same} == {name()}
    local = {"device": "cpu", "threads": 2, "data_dir": "elsewhere"}
    assert local.keys() == {*LOCAL_OPTIONS}
    assert name(local | {"experiment": "mine", "run_name": "x"}) == name()
    others = [name({"epochs": 3}), name({"seed": 1}), name(values="none,batch")]
    others += [name(objective="loss"), name(factor="head", values="conv,gap")]
    assert len({name(), *others}) == 6
    assert name(name="mine") == "mine"


@pytest.mark.parametrize(
    ("scaling", "optimizer", "lr"),
    [
        ("none", "adamw", 0.01),
        ("sqrt", "sgd", 0.02),
        ("linear", "adamw", 0.04),
        ("auto", "adamw", 0.02),
        ("auto", "sgd", 0.04),
    ],
)
def test_the_learning_rate_goes_with_the_batch_size(
    scaling: str, optimizer: str, lr: float
) -> None:
    compared = Compared.read("batch_size", "64,256", scaling)
    base = RunConfig(lr_max=0.01, batch_size=64, optimizer=optimizer)
    assert compared.options(256, 3, base).get("lr_max", 0.01) == pytest.approx(lr)
    assert compared.options(64, 3, base).get("lr_max", 0.01) == pytest.approx(0.01)


def test_a_trial_is_asked_for_its_pair() -> None:
    compared = Compared.read("widths", "8,16;4,8")
    study = optuna.create_study()
    study.enqueue_trial(compared.params("4,8", 2**32 - 1))
    own = compared.suggest(study.ask(), RunConfig())
    assert own == {"widths": "4,8", "seed": 2**32 - 1}


def test_a_definition_is_stored_and_read_back() -> None:
    options = CompareConfig(factor="batch_size", values="64,128", lr_scaling="auto")
    definition = comparison_definition(options, RunConfig(epochs=3), ())
    study = optuna.create_study()
    study.set_user_attr("layerscope.definition", definition.to_json())
    assert StudyDefinition.of(study) == definition


def test_another_comparison_is_told_apart() -> None:
    one = comparison_definition(CompareConfig(factor="norm", values="batch,none"), RunConfig(), ())
    other = comparison_definition(
        CompareConfig(factor="norm", values="none,batch"), RunConfig(), ()
    )
    assert one.differences(other, ()) == ["values: batch,none here, none,batch there"]
