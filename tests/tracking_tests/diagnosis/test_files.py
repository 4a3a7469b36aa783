"""diagnosis.json and evidence.json: what is written is read again; anything else is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tracking.diagnosis.evidence import (
    DataFacts,
    EpochFigures,
    InputFigures,
    NormFigures,
    RunContext,
)
from tracking.diagnosis.files import (
    Evidence,
    read_evidence,
    read_findings,
    write_evidence,
    write_findings,
)
from tracking.errors import RecordsDamaged
from tracking.records import Finding, Remedy

__all__: list[str] = []

FINDING = Finding(
    rule="lr_too_high",
    severity="critical",
    summary="the loss rose",
    cause="Too long.",
    remedies=(Remedy("lower it", "lr_max", "0.01"), Remedy("warm up")),
    first_step=3,
    last_step=9,
    found_step=15,
    layers=("conv1.relu",),
    evidence={"rise": math.inf, "lr": 0.5},
)
EVIDENCE = Evidence(
    RunContext({"lr_max": "0.1"}, {"conv1.relu": "ReLU"}, 10, 300, DataFacts(9, 3, (4, 5), 1)),
    [InputFigures(0, 64, math.nan, 1.0, -1.0, 2.0, 7, 0.0, 3, 0, 9)],
    {"bn1": NormFigures(50, "bn1", 0.5, 0.25)},
    [EpochFigures(50, 0.3, 0.9)],
)


def test_findings_come_back(tmp_path: Path) -> None:
    path = write_findings([FINDING], tmp_path / "new" / "diagnosis.json", ["no activations"])
    [again], missing = read_findings(path)
    assert missing == ["no activations"]
    assert math.isnan(again.evidence["rise"])  # JSON has neither infinities nor NaN
    assert again.evidence["lr"] == 0.5
    assert (again.remedies, again.layers) == (FINDING.remedies, FINDING.layers)
    assert (again.first_step, again.found_step, again.severity) == (3, 15, "critical")


def test_evidence_comes_back(tmp_path: Path) -> None:
    again = read_evidence(write_evidence(EVIDENCE, tmp_path / "evidence.json"))
    assert again.run == EVIDENCE.run
    assert math.isnan(again.inputs[0].mean)
    assert again.inputs[0].highest_label == 9
    assert again.norms == EVIDENCE.norms
    assert again.epochs[0].accuracy == 0.9
    assert math.isnan(again.epochs[0].top_class)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 1}', '{"format": 1, "findings": [3]}'])
def test_other_content_is_refused_with_the_file_s_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "diagnosis.json"
    path.write_text(text)
    with pytest.raises(RecordsDamaged, match=r"diagnosis\.json"):
        read_findings(path)
    with pytest.raises(RecordsDamaged, match=r"diagnosis\.json"):
        read_evidence(path)


def test_a_newer_format_says_what_to_do(tmp_path: Path) -> None:
    path = write_findings([], tmp_path / "diagnosis.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 9}))
    with pytest.raises(RecordsDamaged, match="has format 9, this version reads up to 1; update"):
        read_findings(path)


def test_values_that_a_later_version_adds_are_left_out(tmp_path: Path) -> None:
    path = write_evidence(EVIDENCE, tmp_path / "evidence.json")
    content = json.loads(path.read_text())
    content["epochs"][0]["mood"] = "good"
    path.write_text(json.dumps(content))
    assert read_evidence(path).epochs[0].loss == 0.3
