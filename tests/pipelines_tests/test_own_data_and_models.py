"""docs/own-data-and-models.md: its examples train."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from pipelines.config import RunConfig
from pipelines.run import prepare, train

__all__: list[str] = []

PAGE = Path(__file__).parents[2] / "docs" / "own-data-and-models.md"


def test_the_examples_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"(?:^    .*\n|^\n)+", PAGE.read_text("utf-8"), re.MULTILINE)
    code = [re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in blocks if "def " in block]
    assert len(code) == 2
    (tmp_path / "mine.py").write_text("".join(code), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    config = RunConfig(
        dataset="mine:squares", model="mine:two_layers", lr_max=0.1, epochs=4, device="cpu"
    )
    result = train(prepare(config), tmp_path / "records")
    assert result.data.num_classes == 2
    assert result.activation_stats.layers == ("1", "4")
    assert result.test.accuracy > 0.9
