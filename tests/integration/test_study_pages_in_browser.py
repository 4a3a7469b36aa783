"""study.html and comparison.html in a real browser, on a desk and on a phone, in light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState
from PIL import Image

from pipelines.config import RunConfig
from search.comparisons.report import write_comparison
from search.config import StudyConfig
from search.definition import StudyDefinition
from search.reports.report import write_report
from search.space.search_space import SearchSpace
from tests.integration.browser import Browser, Page, chromium, open_browser
from tests.search_tests.comparisons.made import add, made
from tests.search_tests.studies import realistic

__all__: list[str] = []

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not chromium(), reason="no Chromium is installed (apt install chromium)"),
]

ALL_DRAWN = (
    "[...document.querySelectorAll('.chart')].every(chart => chart.querySelector('.main-svg'))"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("browser") / "profile") as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pages")
    study, definition = made()
    add(study, "none", 4, TrialState.PRUNED, reason="diverged: the loss became nan by step 16")
    searched = StudyDefinition(RunConfig(), StudyConfig(name="s"), SearchSpace.read())
    return {
        "comparison": write_comparison(study, definition, folder / "comparison")[0].as_uri(),
        "study": write_report(realistic(), searched, folder / "study")[0].as_uri(),
    }


def opened(browser: Browser, url: str, width: int, *, dark: bool = False) -> Page:
    page = browser.page(url, width, dark=dark)
    page.wait_for("document.querySelectorAll('.chart').length")
    page.resize(width, page.evaluate("document.documentElement.scrollHeight"))
    page.wait_for(ALL_DRAWN)
    return page


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", ["comparison", "study"])
def test_every_chart_is_drawn_and_nothing_sticks_out(
    browser: Browser, pages: dict[str, str], tmp_path: Path, name: str, dark: bool, width: int
) -> None:
    page = opened(browser, pages[name], width, dark=dark)
    assert page.troubles() == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    pixels = np.asarray(Image.open(page.screenshot(tmp_path / "page.png")).convert("L"))
    assert (np.median(pixels) < 64) == dark
    assert pixels.std() > 10


def test_a_comparison_shows_every_run_and_every_difference(
    browser: Browser, pages: dict[str, str]
) -> None:
    page = opened(browser, pages["comparison"], 1440)
    points = "document.querySelectorAll('[data-chart=\"0\"] .point').length"
    assert page.evaluate(points) == 8 + 2  # runs, and means
    assert page.evaluate(points.replace("0", "1")) == 4 + 1
    bars = "document.querySelectorAll('[data-chart=\"1\"] .errorbar').length"
    assert page.evaluate(bars) == 1
    text = page.evaluate("document.body.innerText")
    assert "norm=none is worse than norm=batch by 4.50 points" in text
    assert "norm=none diverged with 1 of 5 seeds" in text
