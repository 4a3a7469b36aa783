"""report.html in a real browser: alone, on a phone, in the dark, on paper, and in MLflow's page."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.integration.browser import Browser, Page, chromium, open_browser
from tests.tracking_tests.reports import DATASET, facts, random_layer, run_folder
from tracking.mlflow_runs.run_reports import reported
from tracking.mlflow_runs.session import tracked_run
from tracking.records import Metric
from tracking.report.data import RunReport, read_report
from tracking.report.page import write_report
from tracking.tables.step_columns import StepColumns

__all__: list[str] = []

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not chromium(), reason="no Chromium is installed (apt install chromium)"),
]

READY = "document.documentElement?.dataset.state"
ALL_DRAWN = (
    "[...document.querySelectorAll('.chart')].every(chart => chart.querySelector('.main-svg'))"
)
AXIS = "document.querySelector('[data-chart=%s]').layout.yaxis"
TICKS = "document.querySelector('[data-chart=%s] .yaxislayer-above').textContent"
MINUS = "\u2212"
TICK = "getComputedStyle(document.querySelector('.xtick text')).fill"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("browser") / "profile") as opened:
        yield opened


@pytest.fixture(scope="module")
def page_of_a_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    report = read_report(facts(), run_folder(folder / "run"))
    return write_report(report, folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def open_page(browser: Browser, page_of_a_run: str) -> Page:
    """For tests that leave it as they found it: wide, light, with every chart drawn."""
    return whole(browser.page(page_of_a_run, 1440), 1440)


@pytest.fixture
def page(open_page: Page) -> Page:
    open_page.call("Page.bringToFront")  # nothing is drawn behind another page
    return open_page


def whole(page: Page, width: int) -> Page:
    """Make the window as tall as the page, so that every chart is drawn."""
    page.wait_for(READY)
    page.resize(width, page.evaluate("document.documentElement.scrollHeight"))
    page.wait_for(ALL_DRAWN)
    assert page.evaluate(READY) == "ready"
    return page


@pytest.mark.parametrize(
    ("width", "dark"), [(390, False), (390, True), (1440, False), (1440, True)]
)
def test_every_chart_is_drawn_and_nothing_sticks_out(
    browser: Browser, page_of_a_run: str, tmp_path: Path, width: int, dark: bool
) -> None:
    page = whole(browser.page(page_of_a_run, width, dark=dark), width)
    assert page.troubles() == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    outside = "chart => chart.querySelector('.main-svg').clientWidth > chart.clientWidth"
    assert page.evaluate(f"[...document.querySelectorAll('.chart')].filter({outside}).length") == 0
    assert page.evaluate("document.querySelectorAll('.heatmaplayer image').length") == 2
    pixels = np.asarray(Image.open(page.screenshot(tmp_path / "page.png")).convert("L"))
    assert (np.median(pixels) < 64) == dark
    assert pixels.std() > 10


def test_colours_follow_the_system_while_the_page_is_open(page: Page) -> None:
    light = page.evaluate(TICK)
    page.scheme("dark")
    page.wait_for(f"{TICK} !== '{light}'")
    page.scheme("light")
    page.wait_for(f"{TICK} === '{light}'")


def test_pointing_at_a_cell_tells_steps_bin_and_count(page: Page) -> None:
    cell = "document.querySelector('[data-chart=color_dim]').data[0].text[0][7]"
    assert page.evaluate(cell) == "step 7<br>activation 0 to 0.25<br>count 2"


def test_layers_are_hidden_and_shown_in_all_curves_at_once(page: Page) -> None:
    lines = "document.querySelectorAll('[data-chart=curve] .scatterlayer .trace').length"
    assert page.evaluate(lines) == 8
    page.evaluate("document.querySelector('.chip').click()")
    page.wait_for(f"{lines} === 4")
    pressed = "[...document.querySelectorAll('.chip')].map(chip => chip.ariaPressed).join()"
    assert page.evaluate(pressed) == "false,true"
    page.evaluate("document.querySelector('.all').click()")
    page.wait_for(f"{lines} === 8")


def drawn(browser: Browser, report: RunReport, folder: Path) -> Page:
    """The page of a report with every chart drawn."""
    page = browser.page(write_report(report, folder / "report.html").as_uri())
    return whole(page, 1440)


def test_axes_of_a_run_that_does_not_learn(browser: Browser, tmp_path: Path) -> None:
    metrics = {
        f"valid/{kind}": [Metric(f"valid/{kind}", value, 20 * n, 0.0) for n in (1, 2, 3)]
        for kind, value in (("loss", 2.3), ("accuracy", 0.1))
    }
    used = np.full(60, 1e-4)
    steps = StepColumns(np.arange(60), used, used, used, used)
    layers = {"a": random_layer("a", 20)}
    page = drawn(browser, RunReport(facts(metrics=metrics), steps=steps, layers=layers), tmp_path)
    assert page.evaluate(f"{AXIS % 'accuracy'}.range") == pytest.approx([0.05, 0.15])
    assert "\u00d710" in page.evaluate(TICKS % "lr")
    assert "µ" not in page.evaluate("document.body.textContent")


def test_what_explodes_hides_nothing_else(browser: Browser, tmp_path: Path) -> None:
    calm = random_layer("calm", 20)
    grown = np.array([0.5] * 15 + [-1e20, 1e12, 1e24, 1e36, 0.0])
    layers = {"calm": calm, "wild": replace(calm, layer="wild", mean=grown, std=abs(grown))}
    page = drawn(browser, RunReport(facts(), layers=layers), tmp_path)
    mean, std = (page.evaluate(TICKS % f"curve][data-curve={name}") for name in ("mean", "std"))
    assert MINUS in mean
    assert MINUS not in std
    for ticks in (mean, std):
        assert "1036" in ticks.replace("\u200b", "")  # 36 is written above
    chart = "document.querySelector('[data-chart=curve][data-curve=mean]')"
    assert page.evaluate(f"{chart}.data[1].customdata[18]") == 1e36
    assert page.evaluate(f"{chart}.data[0].y.every(y => Math.abs(y) < 2)")
    assert page.evaluate(f"{chart}.layout.yaxis.title.text").startswith("logarithmic beyond 0.")
    assert page.troubles() == []


def test_a_layer_of_a_deep_net_is_chosen(browser: Browser, tmp_path: Path) -> None:
    layers = {f"layer{n}": random_layer(f"layer{n}", 20) for n in range(30)}
    path = write_report(RunReport(facts(), layers=layers), tmp_path / "report.html")
    page = browser.page(path.as_uri())
    page.wait_for(READY)
    page.evaluate("document.querySelector('#chosen').scrollIntoView()")
    page.wait_for("document.querySelector('#chosen .main-svg')")
    first = "document.querySelector('#chosen').data[0].z[0][0]"
    before = page.evaluate(first)
    page.evaluate("document.querySelector('[data-move=\"1\"]').click()")
    page.wait_for(f"{first} !== {before}")
    assert page.evaluate("document.querySelector('#layer').value") == "1"
    assert page.troubles() == []


def test_paper_has_every_chart(browser: Browser, page_of_a_run: str) -> None:
    page = browser.page(page_of_a_run, dark=True)
    page.wait_for(READY)
    printed = base64.b64decode(page.call("Page.printToPDF")["data"])
    assert printed.startswith(b"%PDF")
    assert page.evaluate(ALL_DRAWN)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    cut = "chart => chart.querySelector('.main-svg').clientHeight > chart.clientHeight"
    assert page.evaluate(f"[...document.querySelectorAll('.chart')].filter({cut}).length") == 0


def test_a_browser_without_what_it_needs_says_so(browser: Browser, page_of_a_run: str) -> None:
    page = browser.page("about:blank")
    source = "delete window.DecompressionStream"
    page.call("Page.addScriptToEvaluateOnNewDocument", source=source)
    page.call("Page.navigate", url=page_of_a_run)
    page.wait_for(f"{READY} === 'failed'")
    text = page.evaluate("document.body.innerText")
    assert "This browser is too old for the charts" in text
    assert "99.16 %" in text


def test_the_run_s_page_in_mlflow(
    server: Any, browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAYERSCOPE_RECORDS", str(tmp_path / "records"))
    Image.new("RGB", (300, 100), "red").save(tmp_path / "red.png")
    with tracked_run("tests", "merry-crow") as tracked, reported(tracked, {}) as sink:
        sink.dataset(DATASET)
        sink.metrics([Metric("valid/accuracy", 0.987, 60, 1e9)])
        for epoch in range(3):
            sink.image(tmp_path / "red.png", "color_dim", epoch)
        run_folder(tracked.directory)
    place = f"{server.url}/#/experiments/{tracked.run.experiment_id}/runs/{tracked.run.run_id}"

    page = browser.page(f"{place}/artifacts/report.html", 1600, 1000)
    page.wait_for("document.querySelector('iframe.mlflow-html-iframe')")
    report = page.frame()
    report.wait_for(f"{READY} === 'ready'")
    report.evaluate("document.querySelector('#color_dim').scrollIntoView()")
    report.wait_for("document.querySelector('.heatmaplayer image')")
    assert "98.70 %" in report.evaluate("document.querySelector('header').innerText")
    assert report.troubles() == []

    page.call("Page.navigate", url=place)
    page.wait_for("document.body?.innerText.includes('validation accuracy')")
    page.call("Page.navigate", url=f"{place}/model-metrics")
    # Charts come into being as one scrolls down to them.
    page.wait_for(
        "[...document.querySelectorAll('div, main')].forEach(x => { x.scrollTop = 1e6; }) || "
        "[...document.querySelectorAll('img')].some("
        "img => img.src.includes('images%2Fcolor_dim') && img.naturalWidth === 1200)"
    )
