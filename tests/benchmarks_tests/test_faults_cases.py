"""The list of cases: enough of them, in two halves, and each can be configured."""

from __future__ import annotations

from collections import Counter

from benchmarks.faults.cases import FAULTS, HALVES, all_cases
from benchmarks.faults.plants import LIFTED_BY, PLANTS, Plant, lifts
from pipelines.config import RunConfig

__all__: list[str] = []

CASES = all_cases()


def test_there_are_enough_cases_and_both_halves_have_their_share() -> None:
    faulty = [case for case in CASES if case.fault]
    assert len(faulty) >= 60
    assert len(CASES) - len(faulty) >= 70
    assert len(FAULTS) >= 10
    for fault in ("", *FAULTS):
        halves = Counter(case.half for case in CASES if case.fault == fault)
        assert min(halves[half] for half in HALVES) >= 2, fault
        assert abs(halves[HALVES[0]] - halves[HALVES[1]]) <= 1, fault
        assert not fault or sum(halves.values()) >= 5


def test_names_are_unique_and_can_be_folders() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert not any(set(name) & set("/\\:") for name in names)


def test_options_are_allowed_and_a_fault_distinguishes_a_case_from_its_twin() -> None:
    for case in CASES:
        config = RunConfig(**case.overrides)
        if case.fault:
            assert config != RunConfig(**case.twin) or case.plant is not None, case.name
            assert case.expected, case.name
        else:
            assert case.plant is None, case.name
            assert not case.expected, case.name


def test_every_plant_says_what_lifts_it() -> None:
    assert set(LIFTED_BY) == set(PLANTS)
    assert all(LIFTED_BY.values())
    assert {case.plant.name for case in CASES if case.plant} == set(PLANTS)


def test_half_and_fault_select_cases() -> None:
    half = {case.name for case in all_cases("held-out")}
    assert half == {case.name for case in CASES if case.half == "held-out"}
    assert {case.fault for case in all_cases(only="dead_layer")} == {"dead_layer"}
    assert {case.fault for case in all_cases(only="healthy")} == {""}


def test_a_plant_is_lifted_by_its_own_options_only() -> None:
    scaled = Plant("scaled_weights", {"factor": 10})
    assert lifts(scaled, "init")
    assert not lifts(scaled, "lr_max")
    assert not lifts(None, "init")
