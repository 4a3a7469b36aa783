"""Recording in Lightning's Trainer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from mlflow import MlflowClient
from torch import nn

from tests.mlflow_stores import found_run, history, names_in, sqlite_store
from tests.tracking_tests.models import hooks_on
from tracking.errors import BadOption

__all__: list[str] = []

pytestmark = [
    pytest.mark.usefixtures("no_pictures"),
    # Lightning's advice about loaders and validation, and what it does that torch has deprecated.
    pytest.mark.filterwarnings("ignore:::lightning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture
def parts(library: Callable[[str], ModuleType]) -> Any:
    return library("tests.tracking_tests.integrations.lightning_parts")


def column(table: Any, name: str) -> list[Any]:
    return list(table[name].to_pylist())


def assert_no_hooks(module: nn.Module) -> None:
    [*optimizers] = module.trainer.optimizers
    assert sum(hooks_on(module, it) for it in optimizers) == hooks_on(module) * len(optimizers) == 0


# -- what goes wrong --


@pytest.mark.parametrize("error", [ValueError("of the training"), SystemExit(143)])
def test_a_fit_that_fails_leaves_readable_tables_and_no_hook(
    parts: Any, error: BaseException
) -> None:
    module = parts.Net(fails_in=6, error=error)
    with pytest.raises(type(error)) as raised:
        parts.fit(module)
    assert raised.value is error
    assert_no_hooks(module)
    steps = pq.read_table("records/hyperparameters/steps.parquet")
    assert column(steps, "step") == [0, 1, 2, 3, 4, 5]
    assert set(column(pq.read_table("records/activations/stats.parquet"), "step")) == set(range(6))


def test_several_optimizers_are_refused(parts: Any) -> None:
    module = parts.Net(optimizers=2)
    with pytest.raises(BadOption, match=r"has 2 optimizers: .* exactly one") as raised:
        parts.fit(module)
    assert "\n" not in str(raised.value)
    assert_no_hooks(module)
    assert module.seen == []
    assert not Path("records").exists()


def test_layers_that_match_nothing(parts: Any) -> None:
    module = parts.Net()
    with pytest.raises(BadOption, match="matches no module"):
        parts.fit(module, record_layers="none_such")
    assert_no_hooks(module)
    assert module.seen == []


# -- one row for each step --


def test_hyperparameters_and_losses_are_those_that_were_used(parts: Any) -> None:
    module = parts.Net()
    callback = parts.fit(module)
    table = callback.recorder.read()
    assert column(table, "step") == list(range(8))
    assert column(table, "epoch") == [0] * 4 + [1] * 4
    assert column(table, "lr") == pytest.approx([0.1 * 0.5**step for step in range(8)])
    assert column(table, "loss") == pytest.approx([loss for loss, _ in module.seen])
    assert column(table, "batch_size") == [3, 3, 3, 1] * 2
    stats = callback.activation_stats.read()
    assert column(stats, "layer") == ["net.1", "net.2"] * 8
    assert column(stats, "count")[::2] == [15, 15, 15, 5] * 2
    assert_no_hooks(module)


def test_accumulated_batches_are_one_step(parts: Any) -> None:
    module = parts.Net()
    callback = parts.fit(module, accumulate_grad_batches=3)
    table = callback.recorder.read()
    groups = [module.seen[start:stop] for start, stop in ((0, 3), (3, 4), (4, 7), (7, 8))]
    sizes = [sum(size for _, size in group) for group in groups]
    assert column(table, "batch_size") == sizes == [9, 1, 9, 1]
    losses = [sum(x * n for x, n in group) / sum(n for _, n in group) for group in groups]
    assert column(table, "loss") == pytest.approx(losses)
    assert column(callback.activation_stats.read(), "count")[::2] == [45, 5, 45, 5]


def test_manual_optimization(parts: Any) -> None:
    module = parts.Manual()
    callback = parts.fit(module, samples=12)
    table = callback.recorder.read()
    assert column(table, "batch_size") == [6] * 4
    pairs = zip(module.seen[::2], module.seen[1::2], strict=True)
    assert column(table, "loss") == pytest.approx([(a + b) / 2 for (a, _), (b, _) in pairs])
    assert column(callback.activation_stats.read(), "step")[::2] == [0, 1, 2, 3]


def test_a_step_that_the_gradient_scaler_skips_is_none(parts: Any) -> None:
    from lightning.pytorch.plugins import MixedPrecision

    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    module = parts.Net(spoils=2)
    callback = parts.fit(module, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    table = callback.recorder.read()
    assert column(table, "step") == list(range(7))
    losses = [loss for loss, _ in module.seen]
    assert column(table, "loss") == pytest.approx([*losses[:2], *losses[3:]], rel=1e-2)
    assert column(callback.activation_stats.read(), "step")[::2] == list(range(7))
    assert_no_hooks(module)


def test_optimizer_that_evaluates_several_times_makes_one_step(parts: Any) -> None:
    module = parts.Net(lambda params, lr: torch.optim.LBFGS(params, lr, max_iter=3))
    callback = parts.fit(module, max_epochs=1)
    assert len(module.seen) > 4
    table = callback.recorder.read()
    assert column(table, "step") == [0, 1, 2, 3]
    assert column(table, "loss")[0] == pytest.approx(module.seen[0][0])
    assert column(table, "batch_size") == [3, 3, 3, 1]


# -- evaluation, endings, several fits --


def test_neither_sanity_check_nor_validation_is_recorded(parts: Any) -> None:
    callback = parts.fit(parts.Net(), valid=True)
    stats = callback.activation_stats.read()
    assert set(column(stats, "mode")) == {"train"}
    assert len(stats) == 16


def test_validation_on_request_is_kept_apart(parts: Any) -> None:
    callback = parts.fit(parts.Net(), valid=True, record_record_eval=True)
    stats = callback.activation_stats.read().to_pylist()
    found = [(row["step"], row["count"]) for row in stats if row["mode"] == "eval"]
    # After each epoch 4 samples at once; the sanity check would have been at step 0.
    assert found[::2] == [(4, 20), (8, 20)]
    assert sum(row["mode"] == "train" for row in stats) == 16


def test_a_fit_that_is_stopped_early(parts: Any) -> None:
    class Stops(parts.Bare):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            trainer.should_stop = trainer.global_step == 3

    module = parts.Net()
    callback = parts.LayerscopeCallback()
    parts.trainer(callback, Stops()).fit(module, parts.loader())
    assert column(callback.recorder.read(), "step") == [0, 1, 2]
    assert_no_hooks(module)


def test_two_fits_with_one_callback(parts: Any) -> None:
    callback = parts.LayerscopeCallback(every=2)
    first, second = parts.Net(), parts.Net()
    parts.trainer(callback).fit(first, parts.loader())
    earlier = callback.recorder
    parts.trainer(callback, max_epochs=1).fit(second, parts.loader())
    assert callback.recorder is not earlier
    assert column(callback.recorder.read(), "step") == [0, 1, 2, 3]
    assert sorted(set(column(callback.activation_stats.read(), "step"))) == [0, 2]
    assert_no_hooks(first)
    assert_no_hooks(second)


def test_a_fit_that_goes_on_counts_on(parts: Any) -> None:
    callback = parts.LayerscopeCallback()
    module, trainer = parts.Net(), parts.trainer(callback, max_epochs=1)
    trainer.fit(module, parts.loader())
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, parts.loader())
    assert column(callback.recorder.read(), "step") == [4, 5, 6, 7]
    assert column(callback.recorder.read(), "epoch") == [1] * 4


def test_training_is_not_changed(parts: Any) -> None:
    recorded, bare = parts.Net(), parts.Net()
    parts.fit(recorded, valid=True, accumulate_grad_batches=2)
    parts.trainer(accumulate_grad_batches=2).fit(bare, parts.loader(), parts.loader(4))
    assert recorded.seen == bare.seen
    for one, other in zip(recorded.parameters(), bare.parameters(), strict=True):
        assert torch.equal(one, other)


# -- MLflow --


def test_records_go_to_the_run_of_the_logger(parts: Any) -> None:
    from lightning.pytorch.loggers import MLFlowLogger

    logger = MLFlowLogger("tests", tracking_uri=sqlite_store())
    parts.fit(parts.Net(), logger=logger)
    run = found_run(sqlite_store(), logger.run_id)
    assert run.info.status == "FINISHED"  # by Lightning
    points = history(sqlite_store(), logger.run_id, "train/loss")
    assert sorted(step for _, step, _ in points) == list(range(8))
    folders = MlflowClient(sqlite_store()).list_artifacts(logger.run_id)
    files = {"diagnosis.json", "evidence.json"}
    assert {it.path for it in folders} == {"activations", "hyperparameters"} | files
    assert names_in() == ["records"]


def test_gradients_and_updates_on_request(parts: Any) -> None:
    callback = parts.fit(parts.Net(), record_gradients=True, record_updates=True)
    activations = callback.activation_stats.read()
    gradients = pq.read_table("records/gradients/stats.parquet")
    updates = pq.read_table("records/updates/stats.parquet")
    assert gradients.select(["step", "layer"]).equals(activations.select(["step", "layer"]))
    assert sorted(set(column(updates, "step"))) == sorted(set(column(activations, "step")))
    assert min(updates["ratio"].drop_null().to_pylist()) > 0
