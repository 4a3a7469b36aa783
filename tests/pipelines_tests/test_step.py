"""One optimizer step: accumulation, clipping, smoothing and mixed precision."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.data.loaders import Batch
from pipelines.step import StepOptions, TrainStep, autocast, batch_groups

__all__: list[str] = []

CPU = torch.device("cpu")


def batch_of(count: int, scale: float = 1.0) -> Batch:
    generator = torch.Generator().manual_seed(count)
    x = scale * torch.randn(count, 1, 8, 8, generator=generator)
    return Batch(x, torch.randint(0, 3, (count,), generator=generator))


def model_of() -> nn.Module:
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 4, 3, stride=2)
    return nn.Sequential(conv, nn.GELU(), nn.Flatten(), nn.Linear(36, 3))


def step_of(model: nn.Module, **options: Any) -> TrainStep:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return TrainStep(model, optimizer, CPU, StepOptions(**options))


def gradients(group: list[Batch], **options: Any) -> tuple[float, list[Tensor]]:
    model = model_of()
    loss = step_of(model, **options).gradients(group)
    assert not loss.requires_grad
    assert loss.shape == ()
    return float(loss), [p.grad for p in model.parameters()]


def norm(grads: list[Tensor]) -> float:
    return math.sqrt(sum(float(g.square().sum()) for g in grads))


# -- accumulation --


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("sizes", [(8, 8), (8, 8, 3), (1, 7), (5,)])
def test_a_group_gives_gradient_and_loss_of_one_large_batch(
    sizes: tuple[int, ...], smoothing: float
) -> None:
    group = [batch_of(size) for size in sizes]
    whole = Batch(torch.cat([b.x for b in group]), torch.cat([b.y for b in group]))
    loss, grads = gradients(group, label_smoothing=smoothing)
    expected, whole_grads = gradients([whole], label_smoothing=smoothing)
    assert loss == pytest.approx(expected, rel=1e-6)
    for ours, theirs in zip(grads, whole_grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_gradients_of_an_earlier_step_do_not_linger() -> None:
    model = model_of()
    step = step_of(model)
    step.gradients([batch_of(4)])
    first = [p.grad.clone() for p in model.parameters()]
    step.gradients([batch_of(4)])
    for before, p in zip(first, model.parameters(), strict=True):
        assert before.equal(p.grad)


def test_groups_of_an_epoch(loaders: Any) -> None:
    train = loaders(count=22, batch_size=8).train
    sizes = [[len(b.y) for b in group] for group in batch_groups(train, 2)]
    assert sizes == [[8, 8], [6]]
    assert [len(group) for group in batch_groups(train, 5)] == [3]


# -- clipping and smoothing --


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_clipping_shortens_a_large_gradient_and_keeps_its_direction(precision: str) -> None:
    model = model_of()
    step = step_of(model, precision=precision, clip_norm=1e-3)
    before = [p.detach().clone() for p in model.parameters()]
    step.gradients([batch_of(8)])
    clipped = [p.grad.clone() for p in model.parameters()]
    assert norm(clipped) == pytest.approx(1e-3, rel=1e-3)
    _, free = gradients([batch_of(8)])
    assert norm(free) > 0.1
    product = sum(float((a * b).sum()) for a, b in zip(clipped, free, strict=True))
    assert product / (norm(clipped) * norm(free)) > 0.999
    step.update()  # at a learning rate of 0.1; fp16's gradients must not be divided once more
    moved = [new.detach() - old for old, new in zip(before, model.parameters(), strict=True)]
    assert norm(moved) == pytest.approx(1e-4, rel=0.01)


def test_clipping_leaves_a_small_gradient_alone() -> None:
    group = [batch_of(8)]
    _, free = gradients(group)
    _, clipped = gradients(group, clip_norm=1e3)
    assert all(a.equal(b) for a, b in zip(free, clipped, strict=True))


def test_label_smoothing_is_the_formula() -> None:
    batch = batch_of(8)
    smoothing, classes = 0.3, 3
    target = (1 - smoothing) * F.one_hot(batch.y, classes) + smoothing / classes
    with torch.no_grad():
        expected = -(target * model_of()(batch.x).log_softmax(dim=1)).sum(dim=1).mean()
    loss, _ = gradients([batch], label_smoothing=smoothing)
    assert loss == pytest.approx(float(expected), rel=1e-6)


# -- mixed precision --


@pytest.mark.parametrize(("precision", "kind"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_forward_runs_in_the_precision_and_weights_stay_fp32(
    precision: str, kind: torch.dtype
) -> None:
    model = model_of()
    seen = []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    step = step_of(model, precision=precision)
    before = [p.detach().clone() for p in model.parameters()]
    loss = step.gradients([batch_of(8)])
    step.update()
    assert seen == [kind]
    assert loss.dtype == torch.float32
    expected, _ = gradients([batch_of(8)])
    assert float(loss) == pytest.approx(expected, rel=0.02)
    for old, new in zip(before, model.parameters(), strict=True):
        assert new.dtype == torch.float32
        assert not old.equal(new)


def test_fp16_update_is_that_of_fp32() -> None:
    updates = []
    for precision in ("fp32", "fp16"):
        model = model_of()
        step = step_of(model, precision=precision)
        before = [p.detach().clone() for p in model.parameters()]
        step.gradients([batch_of(8)])
        step.update()
        updates.append([new - old for old, new in zip(before, model.parameters(), strict=True)])
    for a, b in zip(*updates, strict=True):
        torch.testing.assert_close(a, b, rtol=0.05, atol=1e-4)


def test_update_is_left_out_where_fp16_gradients_overflow() -> None:
    model = model_of()
    step = step_of(model, precision="fp16")
    before = [p.detach().clone() for p in model.parameters()]
    loss = step.gradients([batch_of(8, scale=300)])
    assert not all(p.grad.isfinite().all() for p in model.parameters())
    step.update()
    assert all(old.equal(new) for old, new in zip(before, model.parameters(), strict=True))
    step.gradients([batch_of(8)])
    step.update()
    assert not all(old.equal(new) for old, new in zip(before, model.parameters(), strict=True))
    assert loss.isfinite()


def test_autocast_does_nothing_for_fp32() -> None:
    with autocast(CPU, "fp32"):
        assert not torch.is_autocast_enabled("cpu")
    with autocast(CPU, "bf16"):
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
