"""A diagnosis that recorders feed while a run trains, and the same from its files afterwards."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.tracking_tests.models import hooks_on
from tracking import recording
from tracking.diagnosis.evidence import RunContext
from tracking.diagnosis.files import read_evidence, read_findings
from tracking.diagnosis.folders import diagnosed
from tracking.recording import RunRecord
from tracking.recording_options import RecordingOptions
from tracking.records import Finding
from tracking.sink import MemorySink
from tracking.tables.schemas import read_stats

__all__: list[str] = []


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "draw", lambda *arguments: iter(()))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def data(steps: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    xs = [torch.randn(16, 6, generator=generator) for _ in range(steps)]
    return [(x, x[:, :3].argmax(dim=1)) for x in xs]


def trained(
    folder: Path, *, dead_at: int = -1, steps: int = 60, sink: MemorySink | None = None
) -> tuple[list[Finding], tuple[Finding, ...]]:
    """What was announced, and what was found in the end, of a run whose second layer may die."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    told: list[Finding] = []
    context = RunContext({"lr_max": "0.1"}, classes=3)
    with RunRecord(
        model,
        optimizer,
        folder,
        sink=sink,
        expected_steps=steps,
        options=RecordingOptions(gradients=True, updates=True),
        context=context,
        announce=told.append,
    ) as record:
        for step, (x, y) in enumerate(data(steps)):
            if step == dead_at:
                nn.init.constant_(model[2].bias, -1e3)  # type: ignore[arg-type]
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            record.note(loss=loss, batch_size=len(x), labels=y)
            optimizer.param_groups[0]["lr"] = 0.5 * (1 - step / steps)
            optimizer.step()
            record.step()
            optimizer.zero_grad()
            if step % 20 == 19:
                record.validated(loss.item(), 0.8, 0.4)
    assert hooks_on(model, optimizer) == 0
    assert not model._forward_pre_hooks
    return told, record.findings


def test_a_layer_that_dies_is_announced_while_the_run_goes_on(tmp_path: Path) -> None:
    sink = MemorySink()
    told, found = trained(tmp_path, dead_at=21, sink=sink)
    [dead] = [one for one in told if one.rule == "dead_layer"]
    assert (dead.layers, dead.first_step, dead.severity) == (("3",), 21, "critical")
    assert dead.found_step <= 21 + 20
    assert found[0].rule == "dead_layer"
    assert sink.logged_tags["layerscope.findings"].endswith("worst: critical dead_layer")
    written, missing = read_findings(sink.logged_artifacts["diagnosis.json"])
    assert [one.rule for one in written] == [one.rule for one in found]
    assert missing == []


def test_the_files_tell_what_the_live_diagnosis_told(tmp_path: Path) -> None:
    _, found = trained(tmp_path, dead_at=21)
    again = diagnosed(tmp_path)
    assert again.missing == ()
    assert [(f.rule, f.layers, f.first_step, f.found_step) for f in again.findings] == [
        (f.rule, f.layers, f.first_step, f.found_step) for f in found
    ]


def test_a_run_without_faults_is_found_well(tmp_path: Path) -> None:
    told, found = trained(tmp_path)
    assert (told, found) == ([], ())
    assert diagnosed(tmp_path).findings == ()


def test_a_diagnosis_that_fails_does_not_fail_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def deaf(finding: Finding) -> None:
        raise OSError("nobody listens")

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    nn.init.constant_(model[2].bias, -1e3)  # type: ignore[arg-type]
    sink = MemorySink()
    with RunRecord(model, optimizer, tmp_path, sink=sink, announce=deaf) as record:
        for x, y in data(40):
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            record.step()
            optimizer.zero_grad()
    assert [line for line in caplog.messages if "diagnosis" in line] == [
        "the diagnosis failed and goes no further (OSError: nobody listens)"
    ]
    assert set(sink.logged_artifacts) == {
        "activations/stats.parquet",
        "hyperparameters/steps.parquet",
    }
    assert not model._forward_pre_hooks


def test_a_run_that_goes_on_is_looked_at_from_its_own_first_step(tmp_path: Path) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with RunRecord(model, optimizer, tmp_path, first_step=5000) as record:
        for x, y in data(20):
            loss = nn.functional.cross_entropy(model(x * 100), y)
            loss.backward()
            record.note(loss=loss)
            optimizer.step()
            record.step()
    [finding] = [one for one in record.findings if one.rule == "inputs_not_normalised"]
    assert finding.first_step == 5000
    steps = [one.step for one in read_evidence(tmp_path / "evidence.json").inputs]
    assert steps == [*range(5000, 5009), 5016]


@pytest.mark.filterwarnings("ignore")  # of torch's own making
@pytest.mark.parametrize("compiled", [False, True])
def test_batch_norm_is_looked_at_while_the_run_lasts(tmp_path: Path, compiled: bool) -> None:
    torch.compiler.reset()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten())
    called: Any = torch.compile(model, backend="eager", fullgraph=True) if compiled else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(4, 1, 6, 6)
    with RunRecord(model, optimizer, tmp_path) as record:
        for _ in range(3):
            for _ in range(2):
                called(x).square().mean().backward()
                optimizer.step()
                record.step()
            model.eval()
            for _ in range(3):
                called(x)
            record.validated(1.0, 0.5)
            model.train()
    norms = read_evidence(tmp_path / "evidence.json").norms
    assert [(one.step, one.samples) for one in norms.values()] == [(6, 4)]
    assert not model._forward_pre_hooks
    assert not model[1]._forward_pre_hooks
    # Compiled code calls hooks also after they have been removed.
    before = (tmp_path / "evidence.json").read_bytes()
    model.eval()
    called(x)
    model.train()
    called(x)
    assert (tmp_path / "evidence.json").read_bytes() == before


def test_diagnosis_changes_nothing_of_what_is_recorded(tmp_path: Path) -> None:
    trained(tmp_path / "with", dead_at=21)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    options = RecordingOptions(diagnose=False)
    with RunRecord(model, optimizer, tmp_path / "without", options=options) as record:
        for step, (x, y) in enumerate(data(60)):
            if step == 21:
                nn.init.constant_(model[2].bias, -1e3)  # type: ignore[arg-type]
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            record.note(loss=loss, batch_size=len(x))
            optimizer.param_groups[0]["lr"] = 0.5 * (1 - step / 60)
            optimizer.step()
            record.step()
            optimizer.zero_grad()
    assert record.findings == ()
    assert not (tmp_path / "without" / "diagnosis.json").exists()
    same = "activations/stats.parquet"
    assert read_stats(tmp_path / "with" / same).equals(read_stats(tmp_path / "without" / same))


def test_what_is_missing_is_said_and_the_rest_diagnosed(tmp_path: Path) -> None:
    trained(tmp_path, dead_at=21)
    shutil.rmtree(tmp_path / "hyperparameters")
    (tmp_path / "evidence.json").write_text("{")
    (tmp_path / "model_summary.json").write_text(
        '{"layers": [{"name": "1", "kind": "ReLU"}, {"name": "3", "kind": "ReLU"}]}'
    )
    shutil.rmtree(tmp_path / "gradients")  # only there where it was wanted
    again = diagnosed(tmp_path)
    assert again.findings[0].rule == "dead_layer"
    damaged, config, steps = again.missing
    assert damaged == "evidence.json: cannot be read as JSON of Layerscope"
    assert config == "config.yaml is not there"
    assert steps.startswith(
        "hyperparameters/steps.parquet is not there; without it these rules see"
    )
    assert "lr_too_high" in steps


def test_damaged_parts_are_left_out_and_named(tmp_path: Path) -> None:
    trained(tmp_path, dead_at=21)
    whole = tmp_path / "activations" / "stats.parquet"
    parts = tmp_path / "activations" / "parts" / "stats"
    parts.mkdir(parents=True)
    shutil.copy(whole, parts / "00000001.parquet")
    (parts / "00000002.parquet").write_bytes(whole.read_bytes()[:500])
    whole.unlink()  # as a killed run leaves it
    again = diagnosed(tmp_path)
    assert again.findings[0].rule == "dead_layer"
    [line] = again.missing
    assert line.startswith("activations/parts/stats/00000002.parquet cannot be read")


def test_an_empty_folder_finds_nothing_and_says_why(tmp_path: Path) -> None:
    again = diagnosed(tmp_path)
    assert again.findings == ()
    assert [line.split()[0] for line in again.missing] == [
        "evidence.json",
        "config.yaml",
        "model_summary.json",
        "hyperparameters/steps.parquet",
        "activations/stats.parquet",
    ]
