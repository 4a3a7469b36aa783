"""What holds for every test: no display, no telemetry, no stopwatch, no store but its own."""

from __future__ import annotations

import gc
import os
import signal

import pytest
import torch
from hypothesis import HealthCheck, settings

__all__: list[str] = []

# A tracking server that the developer works with must never see a test's runs.
for name in (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_RUN_ID",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_EXPERIMENT_NAME",
):
    os.environ.pop(name, None)
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MPLBACKEND"] = "Agg"

if not torch.cuda.is_available():
    # Triton's interpreter runs the GPUs' kernel on CPU tensors. It has to be asked for before
    # anything imports Triton.
    os.environ["TRITON_INTERPRET"] = "1"

# A shell's background jobs ignore Ctrl-C, and so would every command that a test starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# On a busy machine an example may take long; that is no fault of the code under test.
settings.register_profile(
    "layerscope", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("layerscope")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest first: no process should be left alone with it at the end.

    pytest-xdist gives each process a stretch of the list to begin with. One that began with all of
    the slow tests, which mostly wait for other processes, would be the last to end.
    """
    slow = [item for item in items if item.get_closest_marker("slow") is not None]
    quick = [item for item in items if item.get_closest_marker("slow") is None]
    quick.sort(key=lambda item: not {"integration", "integrations"} & set(item.path.parts))
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    items[:] = dealt(slow, quick, processes)


def dealt(slow: list[pytest.Item], quick: list[pytest.Item], processes: int) -> list[pytest.Item]:
    """A list of which every stretch but the last begins with its part of the slow ones."""
    beginning = max(processes - 1, 1)
    part = -(-len(slow) // beginning)
    total = len(slow) + len(quick)
    order: list[pytest.Item] = []
    for process in range(processes):
        first = slow[process * part : (process + 1) * part]
        room = max((total - len(order)) // (processes - process) - len(first), 0)
        order += first + quick[:room]
        quick = quick[room:]
    return order + quick


def pytest_collection_finish() -> None:
    """What has been imported stays, and so every full garbage collection need not look at it.

    There are half a million objects by now; tests and the libraries under test collect often.
    """
    gc.collect()
    gc.freeze()
