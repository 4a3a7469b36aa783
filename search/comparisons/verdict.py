"""What a comparison shows and what it does not, in plain words."""

from __future__ import annotations

import math

from search.comparisons.result import Arm, Comparison, Contrast
from search.comparisons.statistics import seeds_to_halve

__all__ = ["bare", "caveats", "losses", "verdict"]


def verdict(result: Comparison, contrast: Contrast) -> str:
    """One contrast in a sentence, and what is not in its figures."""
    return " ".join(filter(None, [_found(result, contrast), _not_in_it(result, contrast)]))


def _found(result: Comparison, contrast: Contrast) -> str:
    found = contrast.difference
    one, other = (f"{result.factor}={text}" for text in (contrast.text, result.arms[0].text))
    seeds = f"{found.n} seed{'' if found.n == 1 else 's'}"
    if not found.n:
        return f"{one} cannot be compared with {other}: no seed was trained to its end with both."
    if found.n == 1:
        return (
            f"{one} and {other} differ by {amount(result, found.mean)} with the one seed there is."
        )
    if math.isnan(found.low):
        if not found.mean:
            return f"{one} and {other} gave the same {result.objective} with each of {seeds}."
        how = _how(result, found.mean)
        return f"{one} is {how} than {other} by {amount(result, found.mean)} with each of {seeds}."
    if found.shown:
        how = _how(result, found.mean)
        count = found.above if found.mean > 0 else found.below
        near, far = sorted((abs(found.low), abs(found.high)))
        return (
            f"{one} is {how} than {other} by {amount(result, found.mean)} (95 % interval "
            f"{bare(result, near)} to {bare(result, far)}; {how} with {count} of {seeds})."
        )
    return (
        f"No difference is shown between {one} and {other}: {one} is between "
        f"{_end(result, found.low)} and {_end(result, found.high)} (95 % interval, {seeds}). "
        f"Differences below about {amount(result, found.half_width)} cannot be seen with so many; "
        f"about {seeds_to_halve(found.n, len(result.contrasts))} seeds would halve that."
    )


def _not_in_it(result: Comparison, contrast: Contrast) -> str:
    arms = (result.arms[0], next(arm for arm in result.arms if arm.text == contrast.text))
    said = [f"{result.factor}={arm.text} {losses(arm)}" for arm in arms if arm.lost]
    if not said:
        return ""
    return f"Not in these figures: {'; '.join(said)}."


def losses(arm: Arm) -> str:
    """Such as ``diverged with 2 of 5 seeds``."""
    return ", ".join(f"{state} with {n} of {len(arm.runs)} seeds" for state, n in arm.lost.items())


def caveats(result: Comparison) -> list[str]:
    """What limits the claims, a sentence each."""
    said = [
        (
            "The intervals speak of other seeds on this data set: split, order and first weights. "
            "Of fresh images of the same kind they say less."
        )
    ]
    if len(result.contrasts) > 1:
        said.append(
            f"They hold for all {len(result.contrasts)} contrasts together (Bonferroni), and p is "
            "adjusted for their number (Holm)."
        )
    n = max((contrast.difference.n for contrast in result.contrasts), default=0)
    if 2 <= n < 6:
        said.append(f"With {n} pairs p of the sign-flip test cannot be below {2 / 2**n:.2g}.")
    if result.valid_images and result.objective == "accuracy":
        said.append(
            f"One of the {result.valid_images:,} validation images is "
            f"{100 / result.valid_images:.2g} points."
        )
    if result.factor in {"epochs", "train_limit"}:
        said.append(
            "The values do not see equally many images: look at the training time beside them."
        )
    return said


def amount(result: Comparison, difference: float) -> str:
    """The size of a difference: accuracies in points, losses as they are."""
    unit = " points" if result.objective == "accuracy" else ""
    return f"{bare(result, abs(difference))}{unit}"


def bare(result: Comparison, difference: float, *, signed: bool = False) -> str:
    """A difference without its unit."""
    sign = "+" if signed else ""
    if result.objective == "accuracy":
        return f"{100 * difference:{sign}.2f}"
    return f"{difference:{sign}.4g}"


def _end(result: Comparison, end: float) -> str:
    return f"{amount(result, end)} {_how(result, end)}"


def _how(result: Comparison, difference: float) -> str:
    return "better" if (difference > 0) == (result.objective == "accuracy") else "worse"
