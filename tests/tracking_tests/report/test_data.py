"""What a report reads of a run's folder: all of it, or what is left of it, with reasons."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.tracking_tests.reports import FINDING, LAYERS, MODEL, facts, run_folder
from tracking.diagnosis.files import FINDINGS
from tracking.records import Metric
from tracking.report.data import ARTIFACTS, Headlines, RunFacts, read_report

__all__: list[str] = []


def test_an_empty_folder_says_what_is_missing(tmp_path: Path) -> None:
    report = read_report(facts(), tmp_path)
    wanted = [name for name in ARTIFACTS if name != FINDINGS]  # not every run is diagnosed
    assert sorted(report.missing) == sorted(f"{name} is not there" for name in wanted)
    assert report.findings is None
    assert (report.config, report.model, report.steps, report.layers) == ("", {}, None, {})
    assert report.versions == {}


@pytest.mark.parametrize("name", ARTIFACTS)
def test_a_damaged_file_leaves_the_others(tmp_path: Path, name: str) -> None:
    path = run_folder(tmp_path) / name
    path.write_bytes(path.read_bytes()[:8] + b"\xff\xfe")
    report = read_report(facts(), tmp_path)
    [line] = report.missing
    assert name in line
    assert str(tmp_path) not in line
    left = [bool(report.config), bool(report.model), report.steps is not None, bool(report.layers)]
    left.append(report.findings == [FINDING])
    assert left == [other != name for other in ARTIFACTS]


@pytest.mark.parametrize("content", ["[]", "{}", '{"layers": [{}]}', '{"layers": null}', "NaN"])
def test_another_json_is_no_model_summary(tmp_path: Path, content: str) -> None:
    (run_folder(tmp_path) / "model_summary.json").write_text(content)
    assert read_report(facts(), tmp_path).missing == ("model_summary.json: is no model summary",)


def test_a_newer_format_is_said(tmp_path: Path) -> None:
    path = run_folder(tmp_path) / "activations/stats.parquet"
    table = pq.read_table(path)
    meta = json.loads(table.schema.metadata[b"layerscope"]) | {"format": 2}
    pq.write_table(table.replace_schema_metadata({b"layerscope": json.dumps(meta)}), path)
    [line] = read_report(facts(), tmp_path).missing
    assert line.startswith("activations/stats.parquet: has format 2, this version reads up to 1")


def test_why_tables_are_not_there(tmp_path: Path) -> None:
    off = read_report(facts(params={"record": "false"}), tmp_path)
    assert "activations/stats.parquet is not there: recording was switched off (record=false)" in (
        off.missing
    )
    running = read_report(facts(state="running"), tmp_path)
    assert "config.yaml is not there: it comes when the run ends" in running.missing
    known = read_report(facts(), tmp_path, {"config.yaml": "cannot be downloaded (refused)"})
    assert "config.yaml cannot be downloaded (refused)" in known.missing


def test_tables_without_rows(tmp_path: Path) -> None:
    report = read_report(facts(), run_folder(tmp_path, steps=0))
    assert report.steps is None
    assert report.missing == (
        "activations/stats.parquet has no rows: no step of training was recorded",
    )


def test_a_whole_folder(tmp_path: Path) -> None:
    report = read_report(facts(), run_folder(tmp_path))
    assert report.missing == ()
    assert list(report.layers) == list(LAYERS)
    assert [len(one) for one in report.layers.values()] == [60, 60]
    assert report.steps is not None
    assert report.steps.step.tolist() == list(range(60))
    assert report.model["trainable"] == MODEL["trainable"]
    assert report.model["layers"][0]["shapes"] == {"weight": [8, 1, 5, 5], "bias": [8]}
    assert report.config.startswith("dataset: digits")
    assert set(report.versions) == {"layerscope", "torch"}


def test_headlines_keep_what_a_report_needs() -> None:
    kept = Headlines()
    kept.params({"epochs": "3"})
    kept.metrics([Metric("valid/loss", 1.0, 5, 0.0), Metric("activations/relu/mean", 1.0, 5, 0.0)])
    kept.metrics([Metric("valid/loss", 0.5, 9, 0.0), Metric("train/loss", 1.0, 9, 0.0)])
    assert kept.logged == {"epochs": "3"}
    assert {key: [p.step for p in points] for key, points in kept.points.items()} == {
        "valid/loss": [5, 9]
    }


def test_facts_know_their_last_values_and_duration() -> None:
    assert facts().last("valid/loss") == 0.5
    assert facts().last("test/loss") is None
    assert facts().seconds == 75
    assert RunFacts("x").seconds is None
    assert facts(ended=0.0).seconds == 0
