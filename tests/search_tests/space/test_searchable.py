"""Which options may be searched, and what a value of one becomes."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.config import RunConfig
from search.space.searchable import REFUSED, SEARCHABLE, check_name, number_type, option_value
from tracking.errors import BadOption

__all__: list[str] = []


def test_every_option_is_either_searched_or_refused() -> None:
    """A new option of RunConfig has to be put into one of the two."""
    assert set(SEARCHABLE) & set(REFUSED) == set()
    assert {*SEARCHABLE, *REFUSED} == {*RunConfig.model_fields, "momentum_drop"}
    assert len(set(SEARCHABLE)) == len(SEARCHABLE)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_refusal_says_why_and_what_to_do(name: str) -> None:
    with pytest.raises(BadOption) as caught:
        check_name(name)
    flag = "--" + name.replace("_", "-")
    assert str(caught.value) == (
        f"{name} cannot be searched: {REFUSED[name]}; set it for the study as a whole: {flag}"
    )


def test_samples_seen_are_the_reason_for_epochs() -> None:
    with pytest.raises(BadOption, match="equal numbers of samples seen"):
        check_name("epochs")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("lr_max", float),
        ("pct_start", float),
        ("momentum_drop", float),
        ("batch_size", int),
        ("cycles", int),
        ("nesterov", None),
        ("schedule", None),
        ("widths", None),
        ("model", None),
    ],
)
def test_number_types(name: str, kind: Any) -> None:
    assert number_type(name) is kind


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("batch_size", "64", 64),
        ("lr_max", "1e-3", 0.001),
        ("nesterov", "true", True),
        ("widths", (8, 16), "8,16"),
        ("widths", " 8, 16", "8,16"),
        ("widths", 8, "8"),
        ("cycles", "4", 4),
        ("pct_start", 0.9, 0.9),
        ("momentum_min", "0.99", 0.99),
        ("momentum_max", "0.1", 0.1),
        ("momentum_drop", "0.1", 0.1),
        ("schedule", "one_cycle_linear", "one_cycle_linear"),
    ],
)
def test_values_become_plain_json(name: str, given: Any, value: Any) -> None:
    found = option_value(name, given)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("pct_start", None),
        ("pct_start", 1.0),
        ("momentum_drop", 1),
        ("momentum_drop", "nan"),
        ("cycles", 0),
        ("first_kernel", 4),
        ("model", "simple_cn"),
        ("widths", ""),
    ],
)
def test_values_that_no_run_takes(name: str, given: Any) -> None:
    with pytest.raises(BadOption, match=name):
        option_value(name, given)
