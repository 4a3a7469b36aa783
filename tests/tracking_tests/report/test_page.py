"""The page: whole for any run, small for any run, and deaf to what a run's texts say."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.tracking_tests.reports import LAYERS, MODEL, facts, numbers, random_layer, run_folder
from tracking.records import DatasetInfo, Finding, Metric
from tracking.report.data import RunReport, read_report
from tracking.report.page import SECTIONS, render, write_report
from tracking.tables.step_columns import StepColumns

__all__: list[str] = []

LIMIT = 6_000_000
EVIL = (
    """</script><script>alert("1")</script><img src=x onerror='alert(2)'>{{ 7 * 7 }}&amp;\u2028"""
)


class Page(HTMLParser):
    """Elements, headings and texts of a page; complains about tags that do not match."""

    VOID = ("meta", "link", "br", "img", "input")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in {"script", "style"}:
            self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def deep(layers: int, columns: int) -> RunReport:
    step = np.arange(100_000)
    noise = np.random.default_rng(0).random(len(step))
    names = [f"stage{n // 10}.block{n % 10}.{'long_' * 60}name.relu" for n in range(layers)]
    model = MODEL | {"layers": [MODEL["layers"][0] | {"name": name} for name in names * 3]}
    return RunReport(
        facts=facts(params={f"option_{n}": "v" * 6000 for n in range(500)}),
        config="key: value\n" * 100_000,
        model=model,
        steps=StepColumns(step, noise, noise, noise, noise),
        layers={name: random_layer(name, columns) for name in names},
    )


# -- bad input --


@pytest.mark.parametrize("state", ["running", "failed", "killed", "finished"])
def test_a_run_of_which_nothing_is_known(tmp_path: Path, state: str) -> None:
    empty = facts(state=state, params={}, metrics={}, dataset=None, name="", began=None)
    page = render(read_report(empty, tmp_path))
    found = Page(page)
    assert found.count("section") == len(SECTIONS)
    assert "activations/stats.parquet is not there" in found.text
    for sentence in (
        "Neither losses nor metrics were recorded.",
        "No step of the optimizer was recorded.",
        "No activations were recorded.",
        "There is no summary of the model.",
        "No parameters were logged.",
    ):
        assert sentence in found.text
    assert numbers(page)["layers"] == []


def test_a_run_of_somebodys_own_loop_lacks_nothing_and_has_its_own_code(tmp_path: Path) -> None:
    """Such a run has tables and pictures, but neither config.yaml nor a model summary."""
    folder = run_folder(tmp_path)
    for name in ("config.yaml", "model_summary.json"):
        (folder / name).unlink(missing_ok=True)
    report = read_report(facts(params={"lr": "0.1"}, commit="abc123"), folder)
    assert report.missing == ()
    text = Page(render(report)).text
    assert "This run was trained by a loop of its own; its code is at commit abc123." in text
    assert "train --config" not in text


def test_texts_of_a_run_stay_texts(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, layers=(EVIL,))
    (folder / "config.yaml").write_text(EVIL, encoding="utf-8")
    dataset = DatasetInfo(EVIL, EVIL, EVIL, (1, 2, 3), (EVIL,), {EVIL: 1})
    values = {"name": EVIL, "experiment": EVIL, "reason": EVIL, "commit": EVIL, "version": EVIL}
    report = read_report(
        facts(**values, run_id=EVIL, state="failed", dataset=dataset, params={EVIL: EVIL}), folder
    )
    layer = MODEL["layers"][0] | {"name": EVIL, "kind": EVIL, "shapes": {EVIL: [1]}}
    changed = RunReport(**{**vars(report), "model": MODEL | {"layers": [layer]}})
    page = render(changed)
    found, plain = Page(page), Page(render(read_report(facts(), run_folder(tmp_path / "plain"))))
    assert found.count("script") == plain.count("script") == 3
    assert found.count("img") == 0
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert found.text.count('alert("1")') >= 8
    assert "{{ 7 * 7 }}" in found.text
    assert numbers(page)["layers"][0]["name"].startswith("</script><script>alert")


@pytest.mark.parametrize(("layers", "columns"), [(200, 240), (1100, 16)])
def test_the_page_of_a_deep_net_stays_below_its_limit(layers: int, columns: int) -> None:
    page = render(deep(layers, columns))
    assert len(page.encode()) < LIMIT
    assert len(numbers(page)["layers"]) == min(layers, 1000)
    found = Page(page)
    [chooser] = [a for tag, a in found.tags if tag == "select"]
    assert chooser["id"] == "layer"
    assert found.count("option") == min(layers, 1000)
    assert ("Shown are 1000 of 1100 layers" in found.text) == (layers == 1100)


# -- what is on it --


def test_the_page_of_a_run(tmp_path: Path) -> None:
    report = read_report(facts(), run_folder(tmp_path))
    path = write_report(report, tmp_path / "new" / "report.html")
    page = path.read_text(encoding="utf-8")
    found = Page(page)
    assert path.stat().st_size < 2_500_000
    for text in (
        *("merry-crow", "finished", "99.16 %", "30,542", "1 min 15 s", "simple_cnn on digits"),
        *("1,294 train", "8x14x14", "weight 8x1x5x5, bias 8"),
        "mlflow artifacts download --run-id 0123456789abcdef --artifact-path config.yaml",
        "python layerscope.py train --config config.yaml",
        "lr_max",
    ):
        assert text in found.text, text
    assert "Not everything is here" not in found.text
    charts = [a["data-chart"] for tag, a in found.tags if "data-chart" in a]
    assert charts == [
        *("loss", "accuracy", "lr", "momentum", "color_dim", "color_dim"),
        *["curve"] * 4,
    ]


def test_a_run_without_validation_says_nothing_of_it(tmp_path: Path) -> None:
    tested = {"test/accuracy": [Metric("test/accuracy", 0.9916, 60, 0.0)]}
    page = render(read_report(facts(metrics=tested), run_folder(tmp_path)))
    found = Page(page)
    labels = {a["data-chart"]: a["aria-label"] for _, a in found.tags if "data-chart" in a}
    assert labels["loss"] == "Training loss against the step"
    assert labels["accuracy"] == "Accuracy without validation. Test: 99.16 %"
    assert "alidation" not in found.text
    assert "Numbers of each epoch" not in found.text
    data = numbers(page)
    assert data["valid_loss"] == data["valid_accuracy"] == {"step": [], "value": []}
    assert data["test_accuracy"] == {"step": [60], "value": [0.9916]}


def test_charts_and_tables_can_be_told_without_seeing_them(tmp_path: Path) -> None:
    found = Page(render(read_report(facts(), run_folder(tmp_path))))
    headings = [tag for tag, _ in found.tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == "h1"
    assert headings.count("h1") == 1
    assert headings.count("h2") == len(SECTIONS)
    for tag, attributes in found.tags:
        if "data-chart" in attributes:
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        if tag == "th":
            assert attributes["scope"] in {"row", "col"}
        if attributes.get("class") == "scroll":
            assert (attributes["tabindex"], attributes["role"]) == ("0", "region")
    anchors = {a["href"] for tag, a in found.tags if tag == "a"}
    assert anchors == {"#content", *(f"#{section.name}" for section in SECTIONS)}
    assert {a["id"] for _, a in found.tags if "id" in a} >= {a[1:] for a in anchors if a}


def test_nothing_is_loaded_from_anywhere(tmp_path: Path) -> None:
    found = Page(render(read_report(facts(), run_folder(tmp_path))))
    assert found.count("link") == 0
    assert not [a for _, a in found.tags if "src" in a]


def test_numbers_are_those_of_the_tables(tmp_path: Path) -> None:
    report = read_report(facts(), run_folder(tmp_path))
    data = numbers(render(report))
    assert data["steps"]["step"] == list(range(60))
    assert data["valid_loss"] == {"step": [20, 40, 60], "value": [1.5, 0.75, 0.5]}
    assert data["test_loss"] == {"step": [], "value": []}
    assert [layer["name"] for layer in data["layers"]] == list(LAYERS)
    layer = data["layers"][0]
    low, high = report.layers[LAYERS[0]].used_bins
    assert (layer["low"], layer["end"]) == (low, 60)
    np.testing.assert_array_equal(layer["hist"], report.layers[LAYERS[0]].hist[:, low:high])
    assert layer["mean"] == [0.5] * 60
    assert len(data["bins"]) == 81


def test_values_that_json_does_not_have(tmp_path: Path) -> None:
    report = read_report(facts(), run_folder(tmp_path))
    steps = report.steps
    assert steps is not None
    steps.loss[-1] = np.nan
    steps.loss_smooth[-1] = np.inf
    data = numbers(render(report))
    assert data["steps"]["loss"][-1] is data["steps"]["loss_smooth"][-1] is None


def test_findings_stand_at_the_top_with_marks_in_the_charts(tmp_path: Path) -> None:
    report = read_report(facts(), run_folder(tmp_path))
    page = render(report)
    assert SECTIONS[0].name == "diagnosis"
    assert "conv1.relu gives nothing but zeros &lt;since&gt; step 20" in page
    assert "1 · critical" in page
    assert "<code>--lr-max 0.001</code>" in page
    assert numbers(page)["marks"] == [
        {"number": 1, "severity": "critical", "step": 20, "layers": ["conv1.relu"]}
    ]


@pytest.mark.parametrize(
    ("findings", "text"), [([], "Nothing found."), (None, "has not been diagnosed")]
)
def test_a_sound_run_and_one_that_nobody_has_looked_at(
    tmp_path: Path, findings: list[Finding] | None, text: str
) -> None:
    report = replace(read_report(facts(), run_folder(tmp_path)), findings=findings)
    assert text in render(report)
    assert numbers(render(report))["marks"] == []
