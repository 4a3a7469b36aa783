"""Recording in fastai's Learner."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from tests.mlflow_stores import found_run, history, sqlite_store
from tests.tracking_tests.models import hooks_on
from tracking.errors import BadOption

__all__: list[str] = []

pytestmark = [
    pytest.mark.usefixtures("no_pictures"),
    # What fastai does that torch and matplotlib have deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture
def parts(library: Callable[[str], ModuleType]) -> Any:
    return library("tests.tracking_tests.integrations.fastai_parts")


def column(table: Any, name: str) -> list[Any]:
    return list(table[name].to_pylist())


def assert_closed(learn: Any) -> None:
    assert hooks_on(learn.model) == 0
    assert Path("records/hyperparameters/steps.parquet").exists()


# -- what goes wrong --


@pytest.mark.parametrize("error", [ValueError("of the loss"), KeyboardInterrupt()])
@pytest.mark.parametrize("joins", ["learner", "fit"])
def test_a_fit_that_fails_leaves_readable_tables_and_no_hook(
    parts: Any, error: BaseException, joins: str
) -> None:
    callback = parts.LayerscopeCallback()
    learn = parts.learner(*[callback] * (joins == "learner"), fails_in=6, error=error)
    with pytest.raises(type(error)) as raised:
        learn.fit(2, cbs=[callback] * (joins == "fit"))
    assert raised.value is error
    assert_closed(learn)
    steps = pq.read_table("records/hyperparameters/steps.parquet")
    assert column(steps, "step") == [0, 1, 2, 3, 4, 5]
    stats = pq.read_table("records/activations/stats.parquet")
    # What had been computed for the step that failed is there as well.
    assert set(column(stats, "step")) == set(range(7))
    assert callback.recorder.read().equals(steps)


def test_another_callback_that_fails_at_the_end(parts: Any) -> None:
    class Fails(parts.Callback):
        def after_fit(self) -> None:
            raise ValueError("of another")

    learn = parts.learner(parts.LayerscopeCallback(), Fails())
    with pytest.raises(ValueError, match="of another"):
        learn.fit(1)
    assert_closed(learn)


def test_layers_that_match_nothing(parts: Any) -> None:
    learn = parts.learner(parts.LayerscopeCallback(layers="none_such"))
    with pytest.raises(BadOption, match="matches no module"):
        learn.fit(1)
    assert hooks_on(learn.model) == 0
    assert learn.loss_func.seen == []


def test_nothing_to_read_before_the_first_fit(parts: Any) -> None:
    learn = parts.learner(parts.LayerscopeCallback())
    with pytest.raises(RuntimeError, match="nothing has been recorded"):  # not fastai's recorder
        learn.layerscope.recorder  # noqa: B018 - it raises


# -- one row for each step --


@pytest.mark.parametrize("optimizer", ["Adam", "torch_adam"])
def test_hyperparameters_and_losses_are_those_that_were_used(parts: Any, optimizer: str) -> None:
    learn = parts.learner(parts.LayerscopeCallback(), opt=getattr(parts, optimizer), wd=0.02)
    learn.fit_one_cycle(2, 0.1)
    table = learn.layerscope.recorder.read()
    assert column(table, "step") == list(range(8))
    assert column(table, "epoch") == [0] * 4 + [1] * 4
    # fastai's own ParamScheduler notes them as well.
    assert column(table, "lr") == pytest.approx(learn.recorder.hps["lr"])
    assert column(table, "momentum") == pytest.approx(learn.recorder.hps["mom"])
    assert column(table, "weight_decay") == [0.02] * 8
    assert column(table, "loss") == pytest.approx([loss for loss, _ in learn.loss_func.seen])
    assert column(table, "batch_size") == [3, 3, 3, 1] * 2
    stats = learn.layerscope.activation_stats.read()
    assert column(stats, "layer") == ["1", "2"] * 8
    assert column(stats, "count")[::2] == [15, 15, 15, 5] * 2
    assert set(column(stats, "mode")) == {"train"}
    assert_closed(learn)


def test_parameter_groups_and_their_own_rates(parts: Any) -> None:
    def split(model: nn.Module) -> list[list[nn.Parameter]]:
        return [list(model[0].parameters()), list(model[2].parameters())]

    opt = partial(parts.SGD, mom=0.5)
    learn = parts.learner(parts.LayerscopeCallback(), opt=opt, splitter=split)
    learn.fit(1, lr=slice(0.01, 0.1))
    table = learn.layerscope.recorder.read()
    assert column(table, "group") == ["0", "1"] * 4
    assert column(table, "lr") == pytest.approx([0.01, 0.1] * 4)
    assert column(table, "momentum") == [0.5] * 8


def test_accumulated_batches_are_one_step(parts: Any) -> None:
    learn = parts.learner(parts.LayerscopeCallback(), parts.GradientAccumulation(6))
    learn.fit(2)
    table = learn.layerscope.recorder.read()
    # fastai goes on accumulating across the end of an epoch.
    seen = learn.loss_func.seen
    groups = [seen[0:2], seen[2:5], seen[5:7]]
    assert column(table, "batch_size") == [6, 7, 6]
    losses = [sum(x * n for x, n in group) / sum(n for _, n in group) for group in groups]
    assert column(table, "loss") == pytest.approx(losses)
    counts = column(learn.layerscope.activation_stats.read(), "count")[::2]
    assert counts == [30, 35, 30, 5]


def test_cancelled_steps_are_none(parts: Any) -> None:
    class Skips(parts.Callback):
        def before_step(self) -> None:
            if self.learn.train_iter % 2:
                raise parts.CancelStepException

    learn = parts.learner(parts.LayerscopeCallback(), Skips())
    learn.fit(1)
    assert column(learn.layerscope.recorder.read(), "step") == [0, 1]
    stats = learn.layerscope.activation_stats.read()
    assert column(stats, "count")[::2] == [15, 30, 5]


# -- evaluation, endings, several fits --


def test_a_fit_that_is_cancelled(parts: Any) -> None:
    class Stops(parts.Callback):
        def after_batch(self) -> None:
            if self.learn.train_iter == 3:
                raise parts.CancelFitException

    learn = parts.learner(parts.LayerscopeCallback(), Stops())
    learn.fit(2)
    assert column(learn.layerscope.recorder.read(), "step") == [0, 1, 2]
    assert_closed(learn)


def test_validation_on_request_is_kept_apart(parts: Any) -> None:
    learn = parts.learner(parts.LayerscopeCallback(record_eval=True))
    learn.fit(2)
    stats = learn.layerscope.activation_stats.read().to_pylist()
    found = [(row["step"], row["count"]) for row in stats if row["mode"] == "eval"]
    assert found[::2] == [(4, 20), (8, 20)]
    assert sum(row["mode"] == "train" for row in stats) == 16


def test_validating_predicting_and_range_test_leave_the_records(parts: Any) -> None:
    learn = parts.learner(parts.LayerscopeCallback(record_eval=True))
    learn.validate()
    learn.lr_find(num_it=20, show_plot=False)
    assert not Path("records").exists()
    learn.fit(1)
    before = learn.layerscope.activation_stats.read()
    learn.validate()
    learn.get_preds(dl=learn.dls.valid)
    learn.lr_find(num_it=20, show_plot=False)
    assert hooks_on(learn.model) == 0
    assert learn.layerscope.activation_stats.read().equals(before)
    assert column(learn.layerscope.recorder.read(), "step") == [0, 1, 2, 3]


def test_two_fits_with_one_callback(parts: Any) -> None:
    callback = parts.LayerscopeCallback()
    learn = parts.learner()
    learn.fit(1, cbs=callback)
    assert "fit" not in vars(learn)
    earlier = callback.recorder
    learn.fit(2, cbs=callback)
    assert callback.recorder is not earlier
    assert column(callback.recorder.read(), "step") == list(range(8))
    assert_closed(learn)


def test_copies_of_the_learner_train_themselves(parts: Any) -> None:
    learn = parts.learner(parts.LayerscopeCallback())
    twin = copy.deepcopy(learn)
    twin.fit(1)
    assert column(twin.layerscope.recorder.read(), "step") == [0, 1, 2, 3]
    assert learn.loss_func.seen == []
    with pytest.raises(RuntimeError, match="nothing has been recorded"):
        learn.layerscope.recorder  # noqa: B018 - it raises


def test_a_learner_can_be_exported_after_a_fit(parts: Any) -> None:
    learn = parts.learner(parts.LayerscopeCallback(layers="all"))
    learn.fit(1)
    loaded = pickle.loads(cloudpickle.dumps(learn))  # as Learner.export does it
    for one, other in zip(loaded.model.parameters(), learn.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert loaded.layerscope.options == learn.layerscope.options
    loaded.fit(1)
    assert loaded.layerscope.recorder.read().num_rows == 4
    learn.remove_cb(learn.layerscope)
    assert "fit" not in vars(learn)


def test_training_is_not_changed(parts: Any) -> None:
    recorded = parts.learner(parts.LayerscopeCallback(), parts.GradientAccumulation(6))
    bare = parts.learner(parts.GradientAccumulation(6))
    recorded.fit_one_cycle(2, 0.1)
    bare.fit_one_cycle(2, 0.1)
    assert recorded.loss_func.seen == bare.loss_func.seen
    for one, other in zip(recorded.model.parameters(), bare.model.parameters(), strict=True):
        assert torch.equal(one, other)


# -- MLflow --


def test_records_go_to_a_run_that_goes_on(parts: Any) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(sqlite_store())
    experiment = client.get_experiment_by_name("tests")
    run_id = client.create_run(experiment.experiment_id).info.run_id
    callback = parts.LayerscopeCallback(run_id=run_id, tracking_uri=sqlite_store())
    parts.learner(callback).fit(1)
    assert found_run(sqlite_store(), run_id).info.status == "RUNNING"
    assert [step for _, step, _ in history(sqlite_store(), run_id, "lr")] == [0, 1, 2, 3]
    [artifact] = client.list_artifacts(run_id, "hyperparameters")
    assert artifact.path == "hyperparameters/steps.parquet"


def test_gradients_and_updates_on_request(parts: Any) -> None:
    callback = parts.LayerscopeCallback(gradients=True, updates=True)
    parts.learner(callback).fit(1)
    activations = callback.activation_stats.read()
    gradients = pq.read_table("records/gradients/stats.parquet")
    updates = pq.read_table("records/updates/stats.parquet")
    assert gradients.select(["step", "layer"]).equals(activations.select(["step", "layer"]))
    assert sorted(set(column(updates, "step"))) == sorted(set(column(activations, "step")))
    assert min(updates["ratio"].drop_null().to_pylist()) > 0
