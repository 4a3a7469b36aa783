"""One dimension: every form it is given in, and every way in which it can be wrong."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from search.space.dimension_text import as_text, check_dimension, parse_dimension
from search.space.dimensions import Choice, Range, distribution, nearest
from tracking.errors import BadOption

__all__: list[str] = []


def refusal(name: str, text: Any) -> str:
    with pytest.raises(BadOption) as caught:
        parse_dimension(name, text)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"space {name}=")
    return message.removeprefix(f"space {name}=")


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("lr_max", "log:-1:1", "lr_max=-1: input should be greater than 0"),
        ("lr_max", "log:0:1", "lr_max=0: input should be greater than 0"),
        ("weight_decay", "log:0:1", "log needs a low end above 0"),
        ("momentum_max", "0.9:1", "momentum_max=1: input should be less than 1"),
        ("momentum_drop", "-1:0.5", "momentum_drop=-1: input should be greater than or equal to 0"),
        ("lr_max", "1:0.1", "the range is empty; its low end must be below its high end"),
        ("lr_max", "1:1", "the range is empty; its low end must be below its high end"),
        ("lr_max", "nan:1", "low, high and step must be finite numbers"),
        ("lr_max", "1:inf", "low, high and step must be finite numbers"),
        ("lr_max", "0.1:1:nan", "low, high and step must be finite numbers"),
        ("lr_max", "log:0.1:1:0.1", "log goes without a step; leave one of them out"),
        ("lr_max", "0.1:1:0", "step=0 must be above 0 and fit into the range"),
        ("lr_max", "0.1:1:-0.1", "step=-0.1 must be above 0 and fit into the range"),
        ("batch_size", "32:64:64", "step=64 must be above 0 and fit into the range"),
        ("batch_size", "32:64:1.5", "step=1.5 must be a whole number"),
        (
            "first_kernel",
            "3:7",
            "first_kernel=4: allowed: odd numbers, so that the image keeps its centre",
        ),
        (
            "first_kernel",
            "3:9:3",
            "first_kernel=6: allowed: odd numbers, so that the image keeps its centre",
        ),
        ("lr_max", "", "no values; give at least two, or a range such as 0.1:0.5"),
        (
            "lr_max",
            "3",
            "one value leaves nothing to search; give it as a plain option: --lr-max 3",
        ),
        (
            "widths",
            "8,16,32",
            (
                "one value leaves nothing to search; give it as a plain option: --widths 8,16,32, "
                "or separate several by ';'"
            ),
        ),
        (
            "momentum_drop",
            "0.1",
            "one value leaves nothing to search; set momentum_min instead: --momentum-min",
        ),
        ("batch_size", "64,64", "64 is given twice; give every value once"),
        ("batch_size", "64,64.0", "64 is given twice; give every value once"),
        ("nesterov", "true,false,1", "true is given twice; give every value once"),
        ("lr_mx", "1:2", "unknown option 'lr_mx'. Did you mean 'lr_max'?"),
        (
            "device",
            "cpu,cuda",
            (
                "device cannot be searched: it belongs to the study, not to a trial; "
                "set it for the study as a whole: --device"
            ),
        ),
        ("norm", "batch,layer", "norm=layer: input should be 'batch' or 'none'"),
    ],
)
def test_what_is_wrong_with_a_text(name: str, text: str, problem: str) -> None:
    assert refusal(name, text) == f"{text}: {problem}"


@pytest.mark.parametrize("text", ["a:b", "1:2:3:4", "log:", "log:1", "1:", "log", "log:0.1:x"])
def test_texts_that_are_no_range(text: str) -> None:
    assert "numbers as low:high" in refusal("lr_max", text) or "valid number" in refusal(
        "lr_max", text
    )


@pytest.mark.parametrize("text", ["0.1:1,2", "0.1,x", "0.1,,0.2", "0.1,0.2,"])
def test_numbers_that_are_none(text: str) -> None:
    assert "input should be a valid number" in refusal("lr_max", text)


@pytest.mark.parametrize("text", ["1.5:3", "1:2.5"])
def test_whole_numbers_are_asked_for(text: str) -> None:
    assert "input should be a valid integer" in refusal("cycles", text)


def test_a_text_of_several_lines_is_quoted_on_one() -> None:
    assert refusal("lr_max", "1,\n x") == (
        "1, x: lr_max=x: input should be a valid number, unable to parse string as a number"
    )


@pytest.mark.parametrize(
    "given",
    [{"low": 1}, {"low": 1, "high": 2, "lo": 3}, {"low": 1, "high": 2, "log": "maybe"}, {}],
)
def test_mappings_that_are_no_range(given: dict[str, Any]) -> None:
    assert "expected low and high" in refusal("lr_max", given)


@pytest.mark.parametrize("name", ["schedule", "nesterov", "widths", "model"])
@pytest.mark.parametrize("given", ["0:1", {"low": 0, "high": 1}])
def test_what_is_no_number_has_no_range(name: str, given: Any) -> None:
    assert name in refusal(name, given)


@pytest.mark.parametrize(
    ("name", "given", "dimension"),
    [
        ("lr_max", "log:1e-3:1.0", Range(0.001, 1.0, log=True)),
        ("lr_max", " log : 1e-3 : 1 ", Range(0.001, 1.0, log=True)),
        ("pct_start", "0.05:0.5", Range(0.05, 0.5)),
        ("erase", "0:0.5:0.1", Range(0.0, 0.5, step=0.1)),
        ("cycles", "1:5", Range(1, 5, integer=True)),
        ("batch_size", "log:32:512", Range(32, 512, log=True, integer=True)),
        ("first_kernel", "3:7:2", Range(3, 7, integer=True, step=2)),
        ("lr_max", {"low": "1e-3", "high": "1", "log": "true"}, Range(0.001, 1.0, log=True)),
        ("lr_max", {"low": 0.1, "high": 1, "log": True}, Range(0.1, 1.0, log=True)),
        ("erase", {"low": 0, "high": 1, "step": 0.5, "log": False}, Range(0.0, 1.0, step=0.5)),
        ("batch_size", "64, 128,256", Choice((64, 128, 256))),
        ("batch_size", ["64", 128], Choice((64, 128))),
        ("lr_max", "1,1e-3", Choice((1.0, 0.001))),
        ("nesterov", "true,false", Choice((True, False))),
        ("augment", ["none", "flip"], Choice(("none", "flip"))),
        (
            "model",
            "torchvision:resnet18,simple_cnn",
            Choice(("torchvision:resnet18", "simple_cnn")),
        ),
        ("model", "my.nets:small,my.nets:large", Choice(("my.nets:small", "my.nets:large"))),
        ("widths", "8,16;16,32", Choice(("8,16", "16,32"))),
        ("widths", "8;16", Choice(("8", "16"))),
        ("widths", ["8,16", [16, 32], (4,)], Choice(("8,16", "16,32", "4"))),
    ],
)
def test_forms(name: str, given: Any, dimension: Any) -> None:
    found = parse_dimension(name, given)
    assert found == dimension
    assert parse_dimension(name, as_text(name, found)) == found
    if isinstance(found, Choice):
        assert [type(value) for value in found.values] == [type(v) for v in dimension.values]


@pytest.mark.parametrize(
    ("name", "dimension", "problem"),
    [
        ("lr_max", Choice(()), "no values"),
        ("lr_max", Choice((0.1,)), "--lr-max 0.1"),
        ("lr_max", Choice((0.1, -1)), "lr_max=-1: input should be greater than 0"),
        ("batch_size", Choice((64, "64")), "64 is given twice"),
        ("batch_size", Range(32, 64), "batch_size takes whole numbers"),
        ("lr_max", Range(1, 2, integer=True), "lr_max takes real numbers"),
        ("schedule", Range(0, 1), "schedule has no range"),
        ("epochs", Range(1, 9, integer=True), "samples seen"),
        ("lr_mx", Range(0, 1), "Did you mean 'lr_max'"),
    ],
)
def test_dimensions_that_were_built_wrong(name: str, dimension: Any, problem: str) -> None:
    with pytest.raises(BadOption, match=f"^space {name}=.*{problem}"):
        check_dimension(name, dimension)


POSITIVE = st.floats(1e-9, 1e9)


@given(ends=st.tuples(POSITIVE, POSITIVE).filter(lambda ends: ends[0] < ends[1]), log=st.booleans())
def test_a_range_reads_back_exactly(ends: tuple[float, float], log: bool) -> None:
    dimension = Range(*ends, log=log)
    assert parse_dimension("lr_max", as_text("lr_max", dimension)) == dimension


@given(values=st.lists(POSITIVE, min_size=2, max_size=5, unique=True))
def test_a_choice_reads_back_exactly(values: list[float]) -> None:
    dimension = Choice(tuple(values))
    assert parse_dimension("lr_max", as_text("lr_max", dimension)) == dimension


@given(text=st.text("log:.,;-e0123456789 ", max_size=20))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    for name in ("lr_max", "batch_size", "widths", "nesterov"):
        message = ""
        try:
            check_dimension(name, parse_dimension(name, text))
        except BadOption as error:
            message = str(error)
        assert message == "" or message.startswith(f"space {name}=")
        assert "\n" not in message


def test_text_is_short() -> None:
    assert as_text("lr_max", Range(0.001, 1.0, log=True)) == "log:0.001:1"
    assert as_text("final_div", Range(10.0, 1e5)) == "10:100000"


@pytest.mark.parametrize(
    ("dimension", "expected"),
    [
        (Choice(("a", "b")), CategoricalDistribution(("a", "b"))),
        (Range(0.1, 1.0, log=True), FloatDistribution(0.1, 1.0, log=True)),
        # Optuna would warn of a high end that no step reaches.
        (Range(0.0, 0.35, step=0.1), FloatDistribution(0.0, 0.3, step=0.1)),
        (Range(0.0, 0.3, step=0.1), FloatDistribution(0.0, 0.3, step=0.1)),
        (Range(1.0, 5.0, integer=True), IntDistribution(1, 5)),
        (Range(1.0, 6.0, integer=True, step=2.0), IntDistribution(1, 5, step=2)),
        (Range(32.0, 512.0, log=True, integer=True), IntDistribution(32, 512, log=True)),
    ],
)
def test_distributions(dimension: Any, expected: Any) -> None:
    assert distribution(dimension) == expected


@pytest.mark.parametrize(
    ("dimension", "value", "expected"),
    [
        (Choice((32, 64)), 64, 64),
        (Choice((32, 64)), 63, None),
        (Choice((True, False)), False, False),
        (Range(0.1, 0.5), 0.3, 0.3),
        (Range(0.1, 0.5), 7, 0.5),
        (Range(0.1, 0.5), 0, 0.1),
        (Range(0.0, 0.35, step=0.1), 0.9, 0.3),
        (Range(0.0, 0.5, step=0.1), 0.26, 0.3),
        (Range(1.0, 5.0, integer=True), 9, 5),
        (Range(1.0, 6.0, integer=True, step=2.0), 6, 5),
    ],
)
def test_the_nearest_value(dimension: Any, value: Any, expected: Any) -> None:
    found = nearest(dimension, value)
    assert found == pytest.approx(expected)
    assert expected is None or distribution(dimension)._contains(
        distribution(dimension).to_internal_repr(found)
    )
