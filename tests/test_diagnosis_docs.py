"""docs/diagnosis.md: its table is that of the rules, and its example of a rule runs."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.tracking_tests.diagnosis.recorded import layer
from tracking.diagnosis.evidence import Stretch
from tracking.diagnosis.rules import RULES
from tracking.diagnosis.thresholds import known_thresholds

__all__: list[str] = []

PAGE = Path(__file__).parents[1] / "docs" / "diagnosis.md"


def test_the_table_lists_every_rule_with_its_thresholds() -> None:
    written = {}
    for line in PAGE.read_text("utf-8").splitlines():
        if line.startswith("| `"):
            name, severity, needs, _, thresholds = (cell.strip() for cell in line.split("|")[1:6])
            numbers = {k: float(v) for k, v in re.findall(r"`(\w+)` ([\d.e-]+)", thresholds)}
            written[name.strip("`")] = severity, needs, numbers
    assert written == {
        rule.name: (rule.severity, rule.needs, known_thresholds(rule)) for rule in RULES
    }


def test_readme_says_how_many_rules_there_are() -> None:
    readme = (PAGE.parents[1] / "README.md").read_text("utf-8")
    assert len(RULES) == 27
    assert "Twenty-seven rules" in readme


def test_the_example_of_a_rule_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PAGE.read_text("utf-8")
    [example] = re.findall(
        r"(?:^    .*\n|^\n)+", text[text.index("## A rule of one's own") :], re.MULTILINE
    )
    code = "\n".join(line[4:] for line in example.splitlines())
    model = nn.Sequential(OrderedDict(head=nn.Linear(1, 1), act=nn.ReLU()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    names: dict[str, Any] = {"model": model, "optimizer": optimizer}
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(PAGE), "exec"), names)
    [rule] = [one for one in names["record"]._diagnosis.diagnosis._rules if one.name == "hot_layer"]
    head = layer(9, max=np.array([3.0] * 3 + [90.0] * 6))
    rule.observe(Stretch(layers={"head": head}))
    [finding] = rule.findings(False)
    assert (finding.rule, finding.first_step) == ("hot_layer", 3)
