"""Rules of gradients and updates: what they say, and which steps they speak of."""

from __future__ import annotations

import math
from dataclasses import replace

from tests.tracking_tests.diagnosis.recorded import (
    BY_NAME,
    CNN,
    found,
    gradients,
    updates,
)
from tracking.diagnosis.evidence import Stretch

__all__: list[str] = []


def test_gradients_that_a_scaler_overflows_are_no_finding() -> None:
    whole = Stretch(
        gradients={
            "a": gradients(20, 1.0, nonfinite=[1, 1, 1, 1] + [0] * 16),
            "b": gradients(20, 1.0),
        }
    )
    scaled = replace(CNN, options={**CNN.options, "precision": "fp16"})
    assert len(found(BY_NAME["non_finite"], whole)) == 1
    assert found(BY_NAME["non_finite"], whole, scaled) == []


def growing(sizes: list[float], nonfinite: list[int]) -> Stretch:
    """Gradients of one layer beside those of a last layer that stay as they are."""
    steps = len(sizes)
    first = gradients(steps, sizes, nonfinite=nonfinite)
    return Stretch(gradients={"a": first, "b": gradients(steps, 1.0, nonfinite=nonfinite)})


def test_gradients_that_are_suddenly_not_finite_have_not_exploded() -> None:
    damaged = growing([1.0] * 6 + [math.nan] * 14, [0] * 6 + [1] * 14)
    assert found(BY_NAME["exploding_gradients"], damaged) == []
    assert len(found(BY_NAME["non_finite"], damaged)) == 1
    transient = growing([2e3, 1.0, 1.0] + [math.nan] * 5, [0, 0, 0] + [1] * 5)
    assert found(BY_NAME["exploding_gradients"], transient) == []


def test_gradients_that_grow_until_they_are_not_finite_have_exploded() -> None:
    overflow = growing([1.0, 4e3, 9e9] + [math.nan] * 5, [0, 0, 0] + [1] * 5)
    [finding] = found(BY_NAME["exploding_gradients"], overflow)
    assert (finding.first_step, finding.last_step) == (1, 7)
    assert finding.evidence["norm"] == 9e9


def test_gradients_say_of_what_they_are() -> None:
    rule = BY_NAME["exploding_gradients"]
    [large] = found(rule, growing([2e3] * 9, [0] * 9))
    [grown] = found(rule, growing([45.0] * 9, [0] * 9))
    [small] = found(BY_NAME["vanishing_gradients"], growing([1e-7] * 20, [0] * 20))
    assert large.summary == "the L2 norm of the gradient at a reaches 2e+03"
    assert grown.summary == (
        "the root mean square of the gradient at a reaches 45 times that at the last layer"
    )
    assert small.summary == (
        "the root mean square of the gradient at a is 1e-08, at the last layer 0.1"
    )


def test_numbers_are_those_of_the_steps_that_show_it() -> None:
    ratios = [0.9] * 20 + [1e-6] * 80
    [finding] = found(BY_NAME["large_updates"], Stretch(updates={"w": updates(100, ratios)}))
    assert finding.evidence["ratio"] == 0.9


def test_layers_that_are_not_used_in_every_step_are_compared_where_both_are() -> None:
    first, last = gradients(40, 1e-7), gradients(40, 1.0)
    some = replace(last, **{n: getattr(last, n)[::2] for n in last.__dataclass_fields__})
    [finding] = found(BY_NAME["vanishing_gradients"], Stretch(gradients={"a": first, "b": some}))
    assert finding.last_step == 38
