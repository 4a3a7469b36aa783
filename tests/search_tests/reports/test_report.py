"""The report of a study: its files, and a page that needs nothing but itself."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from optuna import Study
from optuna.trial import TrialState

import search.reports.report
from pipelines.config import LOCAL_OPTIONS, RunConfig
from pipelines.options import config_from, read_config
from search.config import StudyConfig
from search.definition import StudyDefinition
from search.reports.page import render, study_page
from search.reports.plot_kinds import snapshot
from search.reports.report import _remove_earlier, best_config, write_report
from search.reports.study_note import study_note
from search.space.search_space import SearchSpace
from tests.integration.browser import chromium, open_browser
from tests.search_tests.studies import every_state, finished, new_study, realistic, trial
from tracking.errors import BadOption

BASE = RunConfig(epochs=3, momentum_max=0.9)
NASTY = "<b>lr</b> & \"x\" 'y' {{ 7 * 7 }} </script>"


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time, and have tests of their own."""
    monkeypatch.setattr(search.reports.report, "save_plots", lambda shot, folder: ([], {}))


def defined(trials: int, objective: str = "accuracy") -> StudyDefinition:
    options = config_from(StudyConfig, {"name": "S", "objective": objective, "trials": trials})
    return StudyDefinition(BASE, options, SearchSpace.read())


def page_of(study: Study, target: int = 50) -> str:
    shot = snapshot(study)
    found = shot.study.trials
    configs = {"best.yaml": found[0]} if found else {}
    return render(study_page(shot, BASE, target, configs), shot)


def words(page: str) -> str:
    """The page without its style and its scripts."""
    return re.sub(r"<(style|script)\b.*?</\1>", "", page, flags=re.DOTALL)


def test_a_report_has_all_its_files(tmp_path: Path) -> None:
    study = every_state()
    files = write_report(study, defined(10), tmp_path / "new")
    names = sorted(str(path.relative_to(tmp_path / "new")) for path in files)
    assert all(path.is_file() for path in files)
    assert {"study.html", "best.yaml", "trials.parquet", "plots/history.png"} <= set(names)
    assert pq.read_table(tmp_path / "new/trials.parquet").num_rows == 9


@pytest.mark.usefixtures("no_pictures")
def test_the_best_configuration_trains_as_the_trial_did(tmp_path: Path) -> None:
    write_report(every_state(), defined(10), tmp_path)
    config = config_from(RunConfig, read_config(tmp_path / "best.yaml"))
    expected = {"batch_size": 128, "lr_max": 0.1, "schedule": "one_cycle", "pct_start": 0.3}
    assert config == BASE.model_copy(update=expected)


@pytest.mark.usefixtures("no_pictures")
def test_the_best_configuration_is_for_any_machine(tmp_path: Path) -> None:
    mine = defined(10).on_this_machine({"data_dir": "/fast", "device": "cuda:1", "threads": 16})
    write_report(every_state(), mine, tmp_path)
    assert not read_config(tmp_path / "best.yaml").keys() & set(LOCAL_OPTIONS)


@pytest.mark.usefixtures("no_pictures")
def test_a_later_report_replaces_what_holds_no_more(tmp_path: Path) -> None:
    (tmp_path / "plots").mkdir()
    for name in ("best.yaml", "best-3.yaml", "plots/history.png", "mine.txt", "study.html"):
        (tmp_path / name).write_text("old")
    files = write_report(new_study(), defined(10), tmp_path)
    assert sorted(path.name for path in files) == ["study.html", "trials.parquet"]
    left = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["mine.txt", "study.html", "trials.parquet"]


@pytest.mark.usefixtures("no_pictures")
def test_files_of_others_stay(tmp_path: Path) -> None:
    own = {name: f"# {name}\n" for name in ("best-fashion.yaml", "best.yaml", "best-3.yaml")}
    for name, text in own.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(BadOption, match=r"best\S*\.yaml is there already, and not of a report"):
        write_report(new_study(), defined(10), tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == own
    (tmp_path / "study.html").write_text("a report")
    _remove_earlier(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"best-fashion.yaml", "study.html"}


def test_what_was_interrupted_can_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(search.reports.report, "save_plots", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_report(every_state(), defined(10), tmp_path)
    assert "not been finished" in (tmp_path / "study.html").read_text()
    files = write_report(every_state(), defined(10), tmp_path)
    assert "not been finished" not in (tmp_path / "study.html").read_text()
    assert {path.name for path in files} >= {"study.html", "best.yaml"}


def test_each_trial_of_a_front_has_its_configuration(tmp_path: Path) -> None:
    study = realistic(two=True)
    write_report(study, defined(40, "accuracy,seconds"), tmp_path)
    names = {path.name for path in tmp_path.glob("*.yaml")}
    assert names == {f"best-{one.number}.yaml" for one in study.best_trials}
    page = words((tmp_path / "study.html").read_text("utf-8"))
    assert "Trials on the front" in page
    assert all(f"python layerscope.py train --config {name}" in page for name in names)


@pytest.mark.parametrize(
    "config",
    [
        None,
        "text",
        {"batch_size": -1},
        {"no_such_option": 1},
        {"schedule": "constant", "pct_start": 0.2},
    ],
)
@pytest.mark.usefixtures("no_pictures")
def test_a_trial_that_cannot_be_repeated_is_no_error(tmp_path: Path, config: object) -> None:
    study = new_study()
    study.add_trial(trial(TrialState.COMPLETE, 0.9, config=config))
    with pytest.raises(BadOption, match=r"^trial 0: "):
        best_config(BASE, study.trials[0])
    write_report(study, defined(1), tmp_path)
    assert not (tmp_path / "best.yaml").exists()
    assert "no configuration to repeat it" in (tmp_path / "study.html").read_text("utf-8")


def test_options_of_the_base_may_be_taken_back() -> None:
    base = RunConfig(schedule="one_cycle", pct_start=0.4)
    own = {"schedule": "constant", "pct_start": None}
    config = best_config(base, trial(TrialState.COMPLETE, 0.9, config=own))
    assert "pct_start" not in yaml.safe_load(config.to_yaml())


def test_the_page_says_what_matters_first() -> None:
    page = words(page_of(every_state(), 5))
    for text in (
        "97.00 %",
        "5 of 5",
        "2 complete, 1 pruned, 1 infeasible, 1 failed, 1 running, 1 waiting",
        "highest validation accuracy",
        "python layerscope.py train --config best.yaml",
        "python layerscope.py study retrain --name lr-and-batch",
        "0" * 31 + "1",
        "no such file",
        "does not fit into memory",
    ):
        assert text in page
    assert ">running</span>" in page


@pytest.mark.usefixtures("no_pictures")
def test_commands_find_a_storage_that_was_named(tmp_path: Path) -> None:
    study = every_state()
    write_report(study, defined(10), tmp_path, "sqlite:///other.db")
    command = "study retrain --name lr-and-batch --storage sqlite:///other.db"
    assert command in words((tmp_path / "study.html").read_text(encoding="utf-8"))
    assert command in study_note(study, "sqlite:///other.db")
    assert "--storage" not in study_note(study)


def test_a_study_that_has_reached_its_target_is_finished() -> None:
    study = new_study()
    study.add_trial(finished(0, {"batch_size": 64}, 0.9))
    assert ">finished</span>" in page_of(study, 1)
    assert ">not finished</span>" in page_of(study, 2)


def test_a_page_of_nothing_is_a_page() -> None:
    page = words(page_of(new_study()))
    assert "No trial is complete yet" in page
    assert page.count("Not drawn.") == 6


def test_what_users_wrote_is_escaped() -> None:
    study = every_state(NASTY)
    study.add_trial(trial(TrialState.FAIL, reason=NASTY))
    page = words(page_of(study))
    assert "<b>" not in page
    assert "{{ 7 * 7 }}" in page
    assert page.count("&lt;b&gt;lr&lt;/b&gt;") >= 4
    assert "</script>" not in page


def test_the_page_is_self_contained_and_small() -> None:
    page = page_of(realistic(300))
    assert len(page.encode()) < 6_000_000
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)""", page)
    assert "url(" not in page
    assert page.count('id="plotly"') == 1


@pytest.mark.browser
@pytest.mark.skipif(not chromium(), reason="there is no Chromium here")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_draws_every_chart(tmp_path: Path, width: int) -> None:
    path = tmp_path / "study.html"
    path.write_text(page_of(every_state(NASTY)), encoding="utf-8")
    with open_browser(tmp_path / "profile") as browser:
        page = browser.page(path.as_uri(), width, 900, dark=width < 500)
        page.wait_for("document.documentElement?.dataset.state")
        page.resize(width, page.evaluate("document.documentElement.scrollHeight"))
        charts = "[...document.querySelectorAll('[data-chart]')]"
        page.wait_for(f"{charts}.every((one) => one.querySelector('.main-svg, p'))")
        assert page.evaluate("document.documentElement.dataset.state") == "ready"
        assert page.evaluate(f"{charts}.filter((one) => one.querySelector('p')).length") == 0
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.troubles() == []
