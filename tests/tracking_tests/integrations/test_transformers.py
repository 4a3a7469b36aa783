"""Recording in the Trainer of Transformers."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from tests.mlflow_stores import found_run, history, sqlite_store
from tests.tracking_tests.models import hooks_on
from tracking.errors import BadOption

__all__: list[str] = []

pytestmark = [
    pytest.mark.usefixtures("no_pictures"),
    # What Transformers and Accelerate advise, or do that torch has deprecated.
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture
def parts(library: Callable[[str], ModuleType]) -> Any:
    return library("tests.tracking_tests.integrations.transformers_parts")


def column(table: Any, name: str) -> list[Any]:
    return list(table[name].to_pylist())


def first_group(table: Any) -> Any:
    """Transformers has a group with weight decay and one without."""
    return table.filter([group == "0" for group in table["group"].to_pylist()])


@pytest.mark.parametrize("error", [ValueError("of the training"), KeyboardInterrupt()])
def test_a_training_that_fails_leaves_readable_tables_and_no_hook(
    parts: Any, error: BaseException
) -> None:
    model = parts.Net(fails_in=6, error=error)
    with pytest.raises(type(error)) as raised, parts.LayerscopeCallback() as callback:
        parts.train(model, [callback])
    assert raised.value is error
    assert hooks_on(model) == 0
    steps = pq.read_table("records/hyperparameters/steps.parquet")
    assert column(first_group(steps), "step") == [0, 1, 2, 3, 4, 5]
    assert set(column(pq.read_table("records/activations/stats.parquet"), "step")) == set(range(6))


def test_layers_that_match_nothing(parts: Any) -> None:
    model = parts.Net()
    with pytest.raises(BadOption, match="matches no module"):
        parts.train(model, [parts.LayerscopeCallback(layers="none_such")])
    assert hooks_on(model) == 0
    assert model.seen == []


def test_hyperparameters_and_losses_are_those_that_were_used(parts: Any) -> None:
    callback, model = parts.LayerscopeCallback(), parts.Net()
    trainer = parts.train(model, [callback])
    table = first_group(callback.recorder.read())
    assert column(table, "step") == list(range(8))
    assert column(table, "epoch") == [0] * 4 + [1] * 4
    assert column(table, "lr") == pytest.approx([0.1 * (1 - step / 8) for step in range(8)])
    assert column(table, "loss") == pytest.approx([loss for loss, _ in model.seen])
    assert column(table, "batch_size") == [3, 3, 3, 1] * 2
    stats = callback.activation_stats.read()
    assert column(stats, "layer") == ["net.1", "net.2"] * 8
    assert column(stats, "count")[::2] == [15, 15, 15, 5] * 2
    assert hooks_on(model, trainer.optimizer.optimizer) == 0


@pytest.mark.parametrize("kind", ["Net", "ToldNet"])
def test_accumulated_batches_are_one_step(parts: Any, kind: str) -> None:
    callback, model = parts.LayerscopeCallback(), getattr(parts, kind)()
    trainer = parts.train(
        model,
        [callback],
        gradient_accumulation_steps=2,
        logging_steps=1,
        lr_scheduler_type="constant",
    )
    table = first_group(callback.recorder.read())
    assert column(table, "batch_size") == [6, 4, 6, 4]
    pairs = list(zip(model.seen[::2], model.seen[1::2], strict=True))
    if kind == "Net":
        losses = [(a * n + b * m) / (n + m) for (a, n), (b, m) in pairs]
    else:  # the model's batches are parts of the mean already, and Transformers logs their sum
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert column(table, "loss") == pytest.approx(losses, abs=1e-4)
    counts = column(callback.activation_stats.read(), "count")[::2]
    assert counts == [30, 20, 30, 20]


def test_evaluation_only_on_request(parts: Any) -> None:
    for record_eval, expected in ((False, []), (True, [(4, 20), (8, 20)])):
        callback = parts.LayerscopeCallback(record_eval=record_eval)
        parts.train(parts.Net(), [callback], eval_strategy="epoch")
        stats = callback.activation_stats.read().to_pylist()
        found = [(row["step"], row["count"]) for row in stats if row["mode"] == "eval"]
        assert found[::2] == expected
        assert sum(row["mode"] == "train" for row in stats) == 16
        assert column(first_group(callback.recorder.read()), "batch_size") == [3, 3, 3, 1] * 2


def test_two_trainings_with_one_callback(parts: Any) -> None:
    callback = parts.LayerscopeCallback()
    first, second = parts.Net(), parts.Net()
    parts.train(first, [callback])
    parts.train(second, [callback], num_train_epochs=1)
    assert column(first_group(callback.recorder.read()), "step") == [0, 1, 2, 3]
    assert hooks_on(first) == hooks_on(second) == 0


def test_training_is_not_changed(parts: Any) -> None:
    recorded, bare = parts.Net(), parts.Net()
    parts.train(recorded, [parts.LayerscopeCallback()], gradient_accumulation_steps=2)
    parts.train(bare, gradient_accumulation_steps=2)
    assert recorded.seen == bare.seen
    for one, other in zip(recorded.parameters(), bare.parameters(), strict=True):
        assert torch.equal(one, other)


def test_records_go_to_a_run_that_goes_on(parts: Any) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(sqlite_store())
    experiment = client.get_experiment_by_name("tests")
    run_id = client.create_run(experiment.experiment_id).info.run_id
    parts.train(parts.Net(), [parts.LayerscopeCallback(run_id=run_id, tracking_uri=sqlite_store())])
    assert found_run(sqlite_store(), run_id).info.status == "RUNNING"
    assert len(history(sqlite_store(), run_id, "train/loss")) == 8


def test_gradients_and_updates_on_request(parts: Any) -> None:
    with parts.LayerscopeCallback(gradients=True, updates=True) as callback:
        parts.train(parts.Net(), [callback])
    activations = callback.activation_stats.read()
    gradients = pq.read_table("records/gradients/stats.parquet")
    updates = pq.read_table("records/updates/stats.parquet")
    assert gradients.select(["step", "layer"]).equals(activations.select(["step", "layer"]))
    assert sorted(set(column(updates, "step"))) == sorted(set(column(activations, "step")))
    assert min(updates["ratio"].drop_null().to_pylist()) > 0
