"""Optuna's plots as pictures and as charts: drawn, or left out with a line that says why."""

from __future__ import annotations

import json
import logging
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import optuna
import pytest
from matplotlib import pyplot as plt
from matplotlib.image import imread
from optuna import Study
from optuna.distributions import FloatDistribution
from optuna.importance import get_param_importances
from optuna.trial import TrialState, create_trial

from search.reports import charts, plots
from search.reports.charts import Chart, charts_of
from search.reports.plot_kinds import ENOUGH, PLOTS, kinds_of, quiet, snapshot, why_not
from search.reports.plots import save_plots
from tests.search_tests.studies import every_state, finished, new_study, realistic, trial

ONE = {"history", "timeline"}
ALL = {kind.name for kind in PLOTS} - {"pareto_front"}


def drawn_of(study: Study) -> dict[str, Chart]:
    return {chart.kind.name: chart for chart in charts_of(snapshot(study))}


def problems(study: Study) -> dict[str, str]:
    shot = snapshot(study)
    found = {kind.name: why_not(kind, shot) for kind in kinds_of(shot)}
    return {name: problem for name, problem in found.items() if problem}


def test_a_snapshot_is_the_study_and_keeps_still() -> None:
    study = every_state()
    shot = snapshot(study)
    study.add_trial(trial(TrialState.COMPLETE, 0.5))
    kept = shot.study.trials
    assert [one.number for one in kept] == list(range(9))
    assert [one.state for one in kept] == [one.state for one in study.trials[:9]]
    assert kept[1].datetime_complete == study.trials[1].datetime_complete
    assert kept[1].user_attrs == study.trials[1].user_attrs


def test_trials_that_did_not_fit_are_in_the_timeline_alone() -> None:
    shot = snapshot(every_state())
    assert [one.number for one in shot.complete] == [1, 8]
    found = drawn_of(every_state())
    assert "infeasible" in [trace["name"] for trace in found["timeline"].figures[0]["data"]]
    assert found["history"].figures[0]["data"][0]["x"] == [1, 8]


def test_an_empty_study_has_a_reason_for_every_plot() -> None:
    found = problems(new_study())
    assert set(found) == ALL
    assert all(problem.endswith(".") and "\n" not in problem for problem in found.values())


def test_one_trial_is_enough_for_its_history() -> None:
    study = new_study()
    study.add_trial(finished(0, {"batch_size": 64}, 0.9))
    found = problems(study)
    assert set(found) == ALL - ONE
    assert found["slice"] == "It takes at least two complete trials; there are 1."


def test_one_parameter_cannot_be_weighed_against_others() -> None:
    study = new_study()
    study.add_trials([finished(i, {"batch_size": 64 * 2**i}, 0.9 + i / 100) for i in range(3)])
    assert "one parameter only (batch_size)" in problems(study)["importances"]
    assert "slice" not in problems(study)


def test_equal_values_have_no_importances() -> None:
    study = new_study()
    for weight_decay in (1e-5, 1e-3, 1e-2):
        study.add_trial(finished(0, {"batch_size": 64, "weight_decay": weight_decay}, 0.5))
    assert problems(study)["importances"] == "All complete trials have the same value."


def test_a_few_trials_do_not_tell_what_matters() -> None:
    study = new_study()
    for number in range(ENOUGH - 1):
        params = {"batch_size": 64 * 2 ** (number % 4), "weight_decay": 0.1 / (1 + number)}
        study.add_trial(finished(number, params, 0.9 - number / 100))
    assert problems(study)["importances"] == (
        "19 complete trials are too few to tell which parameter matters; it takes 20."
    )
    study.add_trial(finished(99, {"batch_size": 64, "weight_decay": 0.05}, 0.8))
    assert "importances" not in problems(study)


def test_infinite_losses_are_left_out() -> None:
    study = new_study("minimize")
    study.add_trials([finished(i, {"batch_size": 64}, 0.5, values=(float("inf"),)) for i in (0, 1)])
    assert {"history", "slice", "importances"} <= set(problems(study))


@pytest.fixture
def loud(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Optuna's own messages, at their loudest."""
    optuna.logging.set_verbosity(optuna.logging.INFO)
    optuna.logging.enable_propagation()
    yield caplog
    optuna.logging.disable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_pictures_are_drawn_and_nothing_else_changes(
    tmp_path: Path, loud: pytest.LogCaptureFixture
) -> None:
    study = realistic()
    loud.clear()
    own = plt.figure()
    face, level = mpl.rcParams["axes.facecolor"], optuna.logging.get_verbosity()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        files, left_out = save_plots(snapshot(study), tmp_path / "plots")
    assert {path.stem for path in files} == ALL
    assert not left_out
    assert all(min(imread(path).shape[:2]) > 300 for path in files)
    assert [str(one.message) for one in seen] == []
    assert loud.messages == []
    assert plt.get_fignums() == [own.number]
    assert mpl.rcParams["axes.facecolor"] == face
    assert optuna.logging.get_verbosity() == level
    plt.close(own)


def test_two_objectives_have_a_front(tmp_path: Path) -> None:
    files, left_out = save_plots(snapshot(realistic(two=True)), tmp_path)
    names = {path.stem for path in files}
    assert "pareto_front" in names
    assert "history" not in names
    assert left_out == {"intermediate_values": "No trial was judged on its way."}


def test_a_plot_that_fails_is_left_out_and_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_shot: Any) -> Any:
        plt.figure()
        raise ValueError("two\nlines")

    monkeypatch.setitem(plots.DRAW, "history", failing)
    monkeypatch.setitem(charts.DRAW, "history", failing)
    study = new_study()
    study.add_trial(finished(0, {}, 0.9))
    files, left_out = save_plots(snapshot(study), tmp_path)
    assert [path.stem for path in files] == ["timeline"]
    assert left_out["history"] == "It could not be drawn: ValueError: two lines"
    assert not plt.get_fignums()
    assert drawn_of(study)["history"].problem == left_out["history"]
    plt.close("all")


def test_charts_show_each_parameter_by_itself() -> None:
    found = drawn_of(realistic())
    assert set(found) == ALL
    assert not any(chart.problem for chart in found.values())
    slices = found["slice"].figures
    titles = [figure["layout"]["xaxis"]["title"]["text"] for figure in slices]
    assert titles == ["batch_size", "lr_max@64", "pct_start", "schedule", "weight_decay"]
    assert "one_cycle" in slices[3]["data"][0]["x"]
    together = found["parallel_coordinates"].figures[0]
    assert together["width"] >= 6 * 100


def test_importances_tell_what_makes_the_best_trials() -> None:
    study = new_study()
    rng = random.Random(0)
    for _ in range(60):
        # Good accuracy takes the right x; where it is wrong, y decides how bad it is.
        x, y = rng.random(), rng.random()
        value = 0.9 + 0.1 * x if x > 0.5 else 0.5 * y
        params = {"x": x, "y": y}
        space = {name: FloatDistribution(0, 1) for name in params}
        study.add_trial(create_trial(value=value, params=params, distributions=space))
    own = get_param_importances(study)
    [figure] = drawn_of(study)["importances"].figures
    [bars] = figure["data"]
    assert dict(zip(bars["y"], bars["x"], strict=True)) == pytest.approx(own)
    shot = snapshot(study)
    with quiet():
        assert get_param_importances(shot.judged, target=shot.cost(0)) == pytest.approx(own)


def test_importances_of_two_objectives_keep_their_names() -> None:
    (figure,) = drawn_of(realistic(two=True))["importances"].figures
    accuracy, seconds = figure["data"]
    assert accuracy["name"] == "validation accuracy"
    assert seconds["name"] == "training seconds"
    shares = dict(zip(accuracy["y"], accuracy["x"], strict=True))
    assert max(shares, key=lambda name: shares[name]) == "lr_max@64"


def test_the_front_stands_out() -> None:
    study = realistic(two=True)
    (figure,) = drawn_of(study)["pareto_front"].figures
    by_name = {trace["name"]: trace for trace in figure["data"]}
    assert len(by_name["on the front"]["text"]) == len(study.best_trials)
    assert len(by_name["other trial"]["text"]) > len(study.best_trials)


def test_what_users_wrote_is_no_markup_in_a_chart() -> None:
    study = new_study()
    study.add_trial(trial(TrialState.FAIL, reason="<a href='https://x'>click</a>"))
    text = json.dumps(list(drawn_of(study)["timeline"].figures))
    assert "<a" not in text
    assert "&lt;a href" in text


def test_hundreds_of_trials_fit(tmp_path: Path) -> None:
    shot = snapshot(realistic(300))
    figures = [chart.figures for chart in charts_of(shot)]
    assert len(json.dumps(figures)) < 1_000_000
    kind = next(kind for kind in PLOTS if kind.name == "intermediate_values")
    with quiet(), plots._pyplot():
        figure = plots.DRAW[kind.name](shot)
        assert figure.axes[0].get_legend() is None
    assert logging.getLogger("optuna").level != logging.ERROR
