"""The cases: faulty and healthy runs, half of them to set thresholds with, half to judge by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from benchmarks.faults.faulty_data import DATA_FAULTS
from benchmarks.faults.faulty_networks import NETWORK_FAULTS
from benchmarks.faults.faulty_schedules import SCHEDULE_FAULTS
from benchmarks.faults.grounds import GROUNDS
from benchmarks.faults.healthy import HEALTHY
from benchmarks.faults.plants import Plant
from benchmarks.faults.variants import Fault, Variant

__all__ = ["FAULTS", "HALVES", "Case", "all_cases"]

HALVES = ("tuning", "held-out")
FAULTS: Mapping[str, Fault] = {**SCHEDULE_FAULTS, **NETWORK_FAULTS, **DATA_FAULTS}


@dataclass(frozen=True)
class Case:
    """One run of the benchmark."""

    name: str
    fault: str
    """Empty for a healthy run."""
    overrides: Mapping[str, Any]
    """Options of the run."""
    plant: Plant | None = None
    onset: int = 0
    """Optimizer step at which the fault sets in."""
    expected: frozenset[str] = frozenset()
    """Rules that name the fault."""
    half: str = HALVES[0]
    twin: Mapping[str, Any] = field(default_factory=dict)
    """Options of the healthy run it is compared with; empty for a healthy run."""


def all_cases(half: str = "both", only: str = "") -> list[Case]:
    """The cases of one half or of both; with ``only`` those of one fault (``healthy`` for none).

    Half of each fault's cases, drawn by a fixed seed, set thresholds, and half of the healthy ones.
    """
    groups = [_faulty(fault, FAULTS[fault]) for fault in FAULTS]
    groups.append([Case(f"healthy {name}", "", options) for name, options in HEALTHY.items()])
    cases = [case for group in groups for case in _halved(group)]
    return [
        case
        for case in cases
        if half in {"both", case.half} and only in {"", case.fault or "healthy"}
    ]


def _faulty(name: str, fault: Fault) -> list[Case]:
    return [
        _case(f"{name} {index}", name, fault.expected, variant)
        for index, variant in enumerate(fault.variants, start=1)
    ]


def _case(name: str, fault: str, expected: frozenset[str], variant: Variant) -> Case:
    ground = dict(GROUNDS[variant.ground])
    return Case(
        name=f"{name} {variant.ground}",
        fault=fault,
        overrides=ground | dict(variant.changes),
        plant=variant.plant,
        onset=variant.onset,
        expected=expected,
        twin=ground | dict(variant.twin),
    )


def _halved(cases: Sequence[Case]) -> Iterator[Case]:
    """Each second one of a shuffled order goes to the held-out half."""
    order = list(range(len(cases)))
    Random(f"halves of {cases[0].fault}").shuffle(order)
    held_out = set(order[1::2])
    for index, case in enumerate(cases):
        yield replace(case, half=HALVES[index in held_out])
