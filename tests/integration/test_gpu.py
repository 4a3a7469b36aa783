"""The same promises on a GPU: exact statistics, and a host that never waits within a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipelines.config import RunConfig
from pipelines.memory import free_memory, is_out_of_memory
from pipelines.run import FitResult, prepare, train
from tests.tracking_tests.models import captured, rows, verify
from tests.tracking_tests.reference import assert_stats
from tracking import ActivationStats, GradientStats, Recorder, UpdateStats
from tracking.statistics.kernels import kernel_for
from tracking.statistics.kernels.torch_kernel import TorchKernel

__all__: list[str] = []

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
GPU = torch.device("cuda", 0)


def cnn() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 24, 3),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(24 * 24 * 24, 10),
    ).to(GPU)


def images(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 1, 28, 28, generator=torch.Generator().manual_seed(seed)).to(GPU)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)


@contextmanager
def no_waiting() -> Iterator[None]:
    """Whatever makes the host wait for the device raises an error."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def test_triton_is_at_work() -> None:
    assert not isinstance(kernel_for(GPU, 0.05, 1.0), TorchKernel)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
def test_statistics_are_those_that_numpy_finds(precision: torch.dtype, channels_last: bool) -> None:
    model = cnn()
    optimizer = sgd(model)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model.to(memory_format=layout)
    x = images(33)
    with (
        captured({name: model[int(name)] for name in "246"}) as seen,
        ActivationStats(model, optimizer=optimizer) as stats,
    ):
        optimizer.register_step_post_hook(seen.next_step)
        for _ in range(3):
            for part in x.to(memory_format=layout).split(20):  # two calls make one step
                with torch.autocast("cuda", dtype=precision, enabled=precision != torch.float32):
                    loss = model(part).float().square().mean()
                loss.backward()
            optimizer.step()
    verify(stats.read(), host(seen))


def host(seen: Any) -> dict[tuple[str, int], list[Tensor]]:
    return {key: [x.cpu() for x in outputs] for key, outputs in seen.items()}


@pytest.mark.parametrize("shape", [(1 << 24,), (3, 5, 1 << 21), ((1 << 31) + 4096,)], ids=str)
def test_large_outputs(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float16, device=GPU)
    model = nn.Sequential(nn.Identity())
    with ActivationStats(model, layers="0") as stats, torch.no_grad():
        model(x)
    [row] = rows(stats.read())
    if x.numel() < 1 << 28:
        assert_stats(row, [x.cpu()])
    assert row["count"] == sum(row["hist"]) == x.numel()
    assert row["mean"] == pytest.approx(x.mean(dtype=torch.float64).item(), rel=1e-6, abs=1e-9)
    assert row["above"] == (x > 1).sum().item()


def test_nothing_waits_for_the_device_within_a_step(tmp_path: Path) -> None:
    model = cnn()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    x, y = images(32), torch.arange(32, device=GPU) % 10
    with (
        ActivationStats(model, optimizer=optimizer) as stats,
        GradientStats(model, optimizer=optimizer) as gradients,
        UpdateStats(model, optimizer=optimizer) as updates,
        Recorder(optimizer, directory=tmp_path) as recorder,
    ):
        for step in range(12):
            with no_waiting() if step else torch.enable_grad():  # the first step compiles
                loss = nn.functional.cross_entropy(model(x), y)
                loss.backward()
                recorder.note(loss=loss, batch_size=32, epoch=0)
                optimizer.step()
                optimizer.zero_grad()
    assert len(rows(stats.read())) == 12 * 3
    assert len(recorder.read()) == 12
    assert {len(gradients.read()) % 12, len(updates.read()) % 12} == {0}


def test_a_flush_is_one_transfer() -> None:
    model = cnn()
    with ActivationStats(model) as stats:
        for _ in range(5):
            model(images(8))
            stats.step()
        torch.cuda.synchronize()
        with torch.profiler.profile() as profile:
            stats.flush()
    moved = [event for event in profile.events() if "DtoH" in event.name]
    assert len(moved) == 1


@pytest.fixture
def trained(tmp_path: Path) -> Callable[..., FitResult]:
    def make(**options: Any) -> FitResult:
        few = {"train_limit": 300, "epochs": 2, "device": "cuda", "image_size": 16}
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        return train(prepare(RunConfig(**(few | options))), folder)

    return make


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"precision": "fp16", "gradients": True, "updates": True},
        {"precision": "bf16", "accumulate": 2, "augment": "crop-flip", "erase": 0.3},
        {"model": "resnet_small", "channels_last": False},
        {"diagnose": False, "optimizer": "sgd"},
    ],
    ids=str,
)
def test_whole_runs(trained: Callable[..., FitResult], options: dict[str, Any]) -> None:
    result = trained(**options)
    assert result.test is not None
    assert result.activation_stats is not None
    assert result.recorder is not None
    table = result.activation_stats.read()
    assert sum(table["nonfinite"].to_pylist()) == 0
    steps = set(range(result.history[-1].step))
    assert set(table["step"].to_pylist()) == steps
    # With fp16 the optimizer may leave out the first ones, until the scale fits.
    assert steps - set(result.recorder.read()["step"].to_pylist()) <= {0, 1}


def test_a_run_learns_and_names_its_device(trained: Callable[..., FitResult]) -> None:
    result = trained(train_limit=0, epochs=3)
    assert result.test is not None
    assert result.test.accuracy > 0.9
    assert next(result.model.parameters()).device == GPU


def test_a_batch_that_does_not_fit_is_told_from_other_failures(
    trained: Callable[..., FitResult],
) -> None:
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(GPU).total_memory
    torch.cuda.set_per_process_memory_fraction(2**29 / total, GPU)
    try:
        with pytest.raises(RuntimeError) as caught:
            trained(train_limit=1000, batch_size=900, image_size=224, model="torchvision:resnet18")
        assert is_out_of_memory(caught.value)
        del caught
        free_memory()
        assert trained(batch_size=8, epochs=1).test is not None
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, GPU)
