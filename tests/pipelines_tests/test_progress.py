"""What a run says of its epochs where there is no terminal."""

from __future__ import annotations

import re
from io import StringIO

import pytest
from rich.console import Console

from pipelines import progress
from pipelines.progress import ProgressReport
from tests.pipelines_tests.loops import LoadersMaker, fit, trainer_of

__all__: list[str] = []

TRAIN = r"epoch +{}/10  train loss \d\.\d{{4}}  "
VALID = r"valid loss \d\.\d{4}  valid accuracy \d+\.\d\d%  "
SPEED = r"[\d,]+ img/s"


@pytest.mark.parametrize(("valid", "said"), [(6, VALID), (0, "")])
def test_a_line_for_each_epoch(loaders: LoadersMaker, valid: int, said: str) -> None:
    text = StringIO()
    report = ProgressReport(Console(file=text, width=200))
    fit(trainer_of(loaders(count=8, valid=valid), report), epochs=10)
    lines = text.getvalue().splitlines()
    assert len(lines) == 10
    for number, line in enumerate(lines, start=1):
        assert re.fullmatch(TRAIN.format(number) + said + SPEED, line), line


def test_a_long_epoch_is_told_of_meanwhile(
    loaders: LoadersMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "QUIET", 0.0)
    text = StringIO()
    fit(trainer_of(loaders(count=8), ProgressReport(Console(file=text, width=200))), epochs=1)
    *steps, epoch = text.getvalue().splitlines()
    assert steps
    assert re.fullmatch(r"epoch 1/1  step 1/\d+  loss \d\.\d{4}", steps[0])
    assert "img/s" in epoch
