"""One run in an MLflow tracking store, addressed by its id; there is no global active run."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from tracking.errors import BadTracking
from tracking.mlflow_runs.store_uri import absolute_uri, sqlite_file, store_kind
from tracking.reasons import masked, reason

__all__ = ["REASON", "MlflowRun"]

REASON = "layerscope.reason"
"""Tag that says why a run ended as failed or killed."""
ATTEMPTS, TIMEOUT = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"


class MlflowRun:
    """One run in a tracking store."""

    def __init__(self, client: MlflowClient, run: Run) -> None:
        self.client = client
        self.run_id = str(run.info.run_id)
        self.experiment_id = str(run.info.experiment_id)
        self.began = (run.info.start_time or 0) / 1000
        """Unix seconds."""
        # `mlflow run` logs an entry point's parameters itself, as the text that was given: 1e-2
        # there and 0.01 here would be a change of value, which MLflow refuses.
        self.known_params = frozenset(run.data.params)

    @classmethod
    def open(cls, experiment: str, name: str = "") -> MlflowRun:
        """The run that `mlflow run` has begun for this process, or a new one.

        The store is MLflow's own choice: MLFLOW_TRACKING_URI, or sqlite:///mlflow.db.
        Raises BadTracking: the store cannot be reached or used.
        """
        uri = absolute_uri(mlflow.get_tracking_uri())
        with _usable(uri), _first_contact():
            client = _client(uri)
            begun = os.environ.get("MLFLOW_RUN_ID")
            run = _continue(client, begun, name) if begun else _begin(client, experiment, name)
            return cls(client, run)

    @staticmethod
    def check_store() -> None:
        """Raises BadTracking: no run can be opened, since the store cannot be reached or used."""
        uri = absolute_uri(mlflow.get_tracking_uri())
        with _usable(uri), _first_contact():
            _client(uri).search_experiments(max_results=1)

    @classmethod
    def child(cls, parent: MlflowRun, name: str, tags: Mapping[str, str]) -> MlflowRun:
        """A new run below another, in its experiment, with tags. Raises what the client raises."""
        marked = {**resolve_tags(), **tags, MLFLOW_PARENT_RUN_ID: parent.run_id}
        run = parent.client.create_run(parent.experiment_id, tags=marked, run_name=name)
        return cls(parent.client, run)

    @classmethod
    def known(
        cls,
        run_id: str,
        tracking_uri: str | None = None,
        *,
        reopen: bool = False,
        deleted: bool = False,
    ) -> MlflowRun:
        """A run that exists, in MLflow's own choice of a store unless ``tracking_uri`` is given.

        ``reopen`` sets it to RUNNING again. Raises BadTracking: it is not there, has been deleted
        (unless ``deleted`` allows that), or the store cannot be used.
        """
        uri = absolute_uri(tracking_uri or mlflow.get_tracking_uri())
        try:
            run = cls.find(uri, run_id)
            if not deleted:
                run.check()
            if reopen:
                run.reopen()
        except Exception as error:
            option = "tracking_uri" if tracking_uri else "MLFLOW_TRACKING_URI"
            raise BadTracking(
                f"run {run_id} in MLflow store {masked(uri)} cannot be used: {reason(error)}; "
                f"check the run's id and {option}"
            ) from None
        return run

    @classmethod
    def find(cls, uri: str, run_id: str) -> MlflowRun:
        """A run that exists. Raises what the client raises."""
        with _first_contact():
            client = _client(absolute_uri(uri), create=False)
            return cls(client, client.get_run(run_id))

    @property
    def tracking_uri(self) -> str:
        """For MLflow; it may hold a password."""
        return str(self.client.tracking_uri)

    @property
    def shown_uri(self) -> str:
        """For people: the tracking URI without a password."""
        return masked(self.tracking_uri)

    def check(self) -> None:
        """Raises MlflowException: the run has been deleted. It may be restored in the UI."""
        if self.client.get_run(self.run_id).info.lifecycle_stage != "active":
            raise MlflowException(f"run {self.run_id} has been deleted in MLflow; restore it")

    def reopen(self) -> None:
        """Let it count as running once more. Raises what the client raises."""
        self.client.update_run(self.run_id, status="RUNNING")
        if REASON in self.tags:
            self.client.delete_tag(self.run_id, REASON)  # of the end that was none

    @property
    def tags(self) -> dict[str, str]:
        """As the store has them now. Raises what the client raises."""
        return dict(self.client.get_run(self.run_id).data.tags)

    def is_running(self) -> bool:
        """Whether the store believes that the run still goes on."""
        return self.status in {"RUNNING", "SCHEDULED"}

    @property
    def status(self) -> str:
        """As the store has it now: RUNNING, FINISHED, FAILED, KILLED."""
        return str(self.client.get_run(self.run_id).info.status)

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags. Raises what the client raises."""
        for key, value in tags.items():
            self.client.set_tag(self.run_id, key, value)

    def end(self, status: str, seconds: float) -> None:
        """Set the final status (FINISHED, FAILED, KILLED) and the time, in Unix seconds."""
        self.client.set_terminated(self.run_id, status, round(seconds * 1000))


def _client(uri: str, *, create: bool = True) -> MlflowClient:
    """A client whose store answers; without ``create``, a SQLite file is not made.

    MLflow would try to reach a database ten times, over two minutes; here it is tried once first.
    """
    if store_kind(uri) in DATABASE_ENGINES:
        file = sqlite_file(uri)
        if file and not create and not Path(file).exists():
            raise FileNotFoundError(2, os.strerror(2))
        if file:
            # As MLflow does, since SQLite makes a file but no folder for it.
            Path(file).parent.mkdir(parents=True, exist_ok=True)
        # SQLAlchemy and Alembic, which a server's client does without.
        from mlflow.store.db.utils import create_sqlalchemy_engine

        engine = create_sqlalchemy_engine(uri)  # type: ignore[no-untyped-call]
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql("SELECT 1")
        finally:
            engine.dispose()
        if file and create:
            with _one_at_a_time(file):
                MlflowClient(uri).search_experiments(max_results=1)
    return MlflowClient(uri)


@contextmanager
def _one_at_a_time(file: str) -> Iterator[None]:
    """MLflow makes a store's tables where there are none; of two that do so at once, one fails."""
    place = hashlib.sha256(os.path.realpath(file).encode()).hexdigest()[:16]
    lock = Path(tempfile.gettempdir()) / f"layerscope-{os.getuid()}-{place}.lock"
    with lock.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _continue(client: MlflowClient, run_id: str, name: str) -> Run:
    client.update_run(run_id, status="RUNNING", name=name or None)
    return client.get_run(run_id)


def _begin(client: MlflowClient, experiment: str, name: str) -> Run:
    # Source, user and git commit, as the UI shows them for runs that `mlflow run` begins.
    tags = resolve_tags()
    return client.create_run(_experiment_id(client, experiment), tags=tags, run_name=name or None)


def _experiment_id(client: MlflowClient, name: str) -> str:
    given = os.environ.get("MLFLOW_EXPERIMENT_ID")
    if given and name == "Default":
        return given
    if name == "Default":
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", name)
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:
            # Another process may have created it just now.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


@contextmanager
def _usable(uri: str) -> Iterator[None]:
    """What is done with a store. Raises BadTracking: it fails."""
    try:
        yield
    except Exception as error:
        raise BadTracking(
            f"MLflow store {masked(uri)} cannot be used: {reason(error)}; "
            "check MLFLOW_TRACKING_URI, and that its server runs"
        ) from None


@contextmanager
def _first_contact() -> Iterator[None]:
    """Settings of MLflow's client, where the user has not chosen any.

    Its own seven attempts take minutes, with a warning each; the sink has attempts of its own. The
    first answer must come within 10 seconds, since someone is waiting for it; later ones within 30.
    """
    os.environ.setdefault(ATTEMPTS, "0")
    # A run's end would print its URL, with the password in it; the commands say where to look.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    given = os.environ.get(TIMEOUT)
    os.environ[TIMEOUT] = given or "10"
    try:
        yield
    finally:
        os.environ[TIMEOUT] = given or "30"
