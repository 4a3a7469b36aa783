"""Servers that stop, die and come back; processes that are killed: nothing is lost or doubled."""

from __future__ import annotations

import os
import shlex
import signal
import stat
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.integration.waiting_runs import run_that_waits
from tests.mlflow_stores import artifact_text, found_run, history, names_in
from tracking.cli import replay
from tracking.errors import RecordsWaiting
from tracking.mlflow_runs.replay import replay_all
from tracking.mlflow_runs.run import MlflowRun
from tracking.mlflow_runs.session import TrackedRun, tracked_run
from tracking.records import Metric
from tracking.spool import Spool

__all__: list[str] = []

ROOT = Path(__file__).parents[2]
WORKER = """
import sys
from tracking.mlflow_runs import uploads
from tracking.records import Metric
from tracking.mlflow_runs.session import tracked_run

with tracked_run("tests") as tracked:
    print(tracked.run.run_id, flush=True)
    print(uploads._current[0]._process.pid, flush=True)
    sys.stdin.readline()
    for n in range(300):
        tracked.sink.metrics([Metric("loss", n / 4, n, 1000.0 + n)])
    (tracked.directory / "notes.txt").write_text("of use")
    print("written", flush=True)
    sys.stdin.readline()
"""


def give(tracked: TrackedRun, first: int, last: int) -> None:
    for n in range(first, last):
        tracked.sink.metrics([Metric("loss", n / 4, n, 1000.0 + n)])


def expected(count: int) -> list[tuple[float, int, int]]:
    return [(n / 4, n, 1_000_000 + 1000 * n) for n in range(count)]


def within(seconds: float, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def worker() -> Iterator[subprocess.Popen[str]]:
    """A process with an open run: prints its id; writes after a line; ends after another."""
    command = [sys.executable, "-c", WORKER]
    paths = {"PYTHONPATH": str(ROOT)}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=os.environ | paths, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def told(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


# -- a server that does not answer --


def test_training_goes_on_while_the_server_is_stopped(server: Any, patience: float) -> None:
    with tracked_run("tests") as tracked:
        server.signal(signal.SIGSTOP)
        loop = threading.Thread(target=give, args=(tracked, 0, 1500), daemon=True)
        loop.start()
        loop.join(patience)
        assert not loop.is_alive()
        server.signal(signal.SIGCONT)
    assert history(server.url, tracked.run.run_id, "loss") == expected(1500)
    assert names_in() == []


def test_memory_does_not_grow_while_the_server_is_stopped(server: Any) -> None:
    with tracked_run("tests") as tracked:
        server.signal(signal.SIGSTOP)
        tracemalloc.start()
        for n in range(20_000):
            tracked.sink.tags({"note": f"{n} {'x' * 1000}"})
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        written = (tracked.directory / "spool" / "entries.jsonl").stat().st_size
        server.signal(signal.SIGCONT)
    assert written > 20_000_000
    assert peak < 6_000_000
    assert found_run(server.url, tracked.run.run_id).data.tags["note"].startswith("19999 ")


def test_server_that_answers_again_before_patience_ends(
    server: Any, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with tracked_run("tests", patience=patience) as tracked:
        server.signal(signal.SIGSTOP)
        give(tracked, 0, 50)
        back = threading.Timer(2.0, server.signal, [signal.SIGCONT])
        back.start()
    back.join()
    run = found_run(server.url, tracked.run.run_id)
    assert run.info.status == "FINISHED"
    assert history(server.url, tracked.run.run_id, "loss") == expected(50)


def test_whoever_waits_may_interrupt(
    server: Any, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with run_that_waits(10 * patience) as (tracked, raised):
        server.signal(signal.SIGSTOP)
        give(tracked, 0, 50)
        threading.Thread(target=interrupt_at_the_end_of, args=(tracked, patience)).start()
    signal.signal(signal.SIGINT, before)
    server.signal(signal.SIGCONT)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    assert "send them with: python layerscope.py replay " in str(raised.pop())
    # Here the process lives on, and so does the request that was on its way.
    assert tracked.sink._upload.wait(patience)
    list(replay_all())
    assert history(server.url, tracked.run.run_id, "loss") == expected(50)
    assert found_run(server.url, tracked.run.run_id).info.status == "FINISHED"
    assert names_in() == []


def test_an_interruption_of_a_wait_that_succeeds_is_raised(server: Any, patience: float) -> None:
    """Or a loop over several trainings would go on after it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    back = threading.Timer(1.0, server.signal, [signal.SIGCONT])
    with ExitStack() as run:
        tracked = run.enter_context(tracked_run("tests", patience=patience))
        server.signal(signal.SIGSTOP)
        give(tracked, 0, 50)
        threading.Thread(target=interrupt_at_the_end_of, args=(tracked, patience)).start()
        back.start()
        with pytest.raises(KeyboardInterrupt):
            run.close()
    signal.signal(signal.SIGINT, before)
    back.join()
    assert found_run(server.url, tracked.run.run_id).info.status == "FINISHED"
    assert history(server.url, tracked.run.run_id, "loss") == expected(50)
    assert names_in() == []


def interrupt_at_the_end_of(tracked: TrackedRun, patience: float) -> None:
    within(patience, lambda: tracked.sink._closed)
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGINT)


def test_password_is_shown_nowhere(
    server: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url.replace("://", "://me:secret@"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with run_that_waits(0.1) as (tracked, raised):
        server.signal(signal.SIGSTOP)
        give(tracked, 0, 1)
    waiting = str(raised.pop())
    assert "no answer in time" in waiting
    assert "secret" not in "\n".join([waiting, caplog.text, *capfd.readouterr()])
    assert tracked.run.shown_uri == server.url.replace("://", "://me:***@")
    target = tracked.directory / "spool" / "target.json"
    assert "secret" in target.read_text()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


# -- a server that dies --


@pytest.mark.slow
def test_server_that_dies_comes_back_or_stays_away(
    server: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAYERSCOPE_RECORDS", "my records/.layerscope")
    with tracked_run("tests") as comes_back:
        give(comes_back, 0, 100)
        with run_that_waits(0.1) as (stays_away, raised):
            give(stays_away, 0, 100)
            server.kill()
            give(stays_away, 100, 200)
        give(comes_back, 100, 200)
        waiting = raised.pop()
        assert waiting.exit_code == 3
        folder, command = stays_away.directory.absolute(), str(waiting).split(": ")[-1]
        assert f"wait in {folder} (" in str(waiting)
        assert shlex.split(command) == ["python", "layerscope.py", "replay", str(folder)]
        assert f"; records wait in {folder}" in caplog.text
        with pytest.raises(RecordsWaiting, match=r"records still wait in .* \(Connection refused"):
            list(replay_all(folder))
        server.start()
    assert history(server.url, comes_back.run.run_id, "loss") == expected(200)
    assert found_run(server.url, comes_back.run.run_id).info.status == "FINISHED"

    assert found_run(server.url, stays_away.run.run_id).info.status == "RUNNING"
    result = CliRunner().invoke(replay, [str(folder)])
    assert result.exit_code == 0, result.output
    assert history(server.url, stays_away.run.run_id, "loss") == expected(200)
    assert found_run(server.url, stays_away.run.run_id).info.status == "FINISHED"
    assert names_in("my records") == []


# -- a process that dies --


def killed_while_records_wait(server: Any, *, uploader_too: bool) -> str:
    """The id of a run whose process was killed; the server is stopped."""
    with worker() as process:
        run_id, uploader = told(process), int(told(process))
        server.signal(signal.SIGSTOP)
        tell(process)
        assert told(process) == "written"
        assert list(replay_all()) == [f"run {run_id}: in use by another process, left alone"]
        if uploader_too:
            os.kill(uploader, signal.SIGKILL)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with (Path(".layerscope") / run_id / "spool" / "entries.jsonl").open("ab") as file:
        file.write(b'{"metrics":[["loss",99.0,')
    return run_id


def assert_ended_as_killed(server: Any, run_id: str) -> None:
    run = found_run(server.url, run_id)
    assert run.info.status == "KILLED"
    assert run.data.tags["layerscope.state"] == "killed"
    assert history(server.url, run_id, "loss") == expected(300)
    assert artifact_text(server.url, run_id, "notes.txt") == "of use"
    assert names_in() == []


@pytest.mark.slow
def test_uploader_ends_the_run_of_a_process_that_was_killed(server: Any, patience: float) -> None:
    run_id = killed_while_records_wait(server, uploader_too=False)
    server.signal(signal.SIGCONT)
    within(patience, lambda: names_in() == [])
    assert_ended_as_killed(server, run_id)


def test_uploader_outlives_a_signal_to_the_whole_service(server: Any) -> None:
    with worker() as process:
        run_id, uploader = told(process), int(told(process))
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            os.kill(uploader, number)
        tell(process)
        tell(process)
        assert process.wait() == 0
    assert found_run(server.url, run_id).info.status == "FINISHED"
    assert history(server.url, run_id, "loss") == expected(300)
    assert names_in() == []


@pytest.mark.slow
def test_uploader_sends_the_rest_of_a_run_that_had_ended(server: Any, patience: float) -> None:
    with worker() as process:
        run_id = told(process)
        told(process)
        server.signal(signal.SIGSTOP)
        tell(process)
        assert told(process) == "written"
        tell(process)  # and so it ends the run, and waits for the server
        entries = Path(".layerscope") / run_id / "spool" / "entries.jsonl"
        within(patience, lambda: '"finish"' in entries.read_text())
        process.send_signal(signal.SIGKILL)
        process.wait()
    server.signal(signal.SIGCONT)
    within(patience, lambda: names_in() == [])
    assert found_run(server.url, run_id).info.status == "FINISHED"
    assert history(server.url, run_id, "loss") == expected(300)


@pytest.mark.slow
def test_replay_ends_the_run_where_all_were_killed(server: Any) -> None:
    run_id = killed_while_records_wait(server, uploader_too=True)
    server.signal(signal.SIGCONT)
    (line,) = replay_all()
    assert line.endswith("its process was killed, so it ended as KILLED")
    assert_ended_as_killed(server, run_id)


# -- two at once --


def test_two_replays_at_once(server: Any, patience: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(int(patience)))
    run = MlflowRun.open("tests")
    find, begun = MlflowRun.find, threading.Event()

    def found(uri: str, run_id: str) -> MlflowRun:
        begun.set()
        return find(uri, run_id)

    monkeypatch.setattr(MlflowRun, "find", found)
    folder = Path(".layerscope") / run.run_id / "spool"
    spool = Spool(folder, {"tracking_uri": server.url, "run_id": run.run_id})
    for n in range(100):
        spool.append({"metrics": [["loss", n / 4, n, 1000.0 + n]]})
    spool.append({"finish": ["FINISHED", 2000.0]})
    spool.close()

    server.signal(signal.SIGSTOP)
    lines: list[str] = []
    first = threading.Thread(target=lambda: lines.extend(replay_all()))
    first.start()
    assert begun.wait(patience)
    second = list(replay_all())
    server.signal(signal.SIGCONT)
    first.join(patience)
    assert second == [f"run {run.run_id}: in use by another process, left alone"]
    assert lines == [f"run {run.run_id}: delivered to {server.url}"]
    assert history(server.url, run.run_id, "loss") == expected(100)
    assert names_in() == []
