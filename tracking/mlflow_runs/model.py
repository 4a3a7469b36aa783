"""A trained model in MLflow, exported: loading it needs torch, but no code of this project."""

from __future__ import annotations

import errno
import json
import resource
import shutil
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import numpy as np
import numpy.typing as npt
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from tracking.mlflow_runs.run import MlflowRun

if TYPE_CHECKING:
    from torch import nn

__all__ = ["log_model", "register_model"]

BESIDE = 4_000_000
"""Bytes of an exported model that are no weights, and to spare."""


def log_model(
    run: MlflowRun | None,
    model: nn.Module,
    example: npt.NDArray[np.float32],
    folder: Path | None = None,
) -> str | None:
    """Log ``model`` to a run as its model ``model``, or save it in ``folder`` without a run.

    Gives the id under which MLflow knows the logged model; None for one that was saved.

    ``example`` is a batch of at least two inputs (float32, batch first); the number of inputs in a
    batch is free when the model is served. The model must be on the CPU and in evaluation mode.
    Raises what MLflow raises: the store is away, or the model cannot be exported.
    """
    import torch

    _check_room(model, folder.parent if folder else Path(tempfile.gettempdir()))
    with torch.no_grad():
        output = model(torch.from_numpy(example)).numpy()
    signature = ModelSignature(
        inputs=Schema([TensorSpec(example.dtype, (-1, *example.shape[1:]))]),
        outputs=Schema([TensorSpec(output.dtype, (-1, *output.shape[1:]))]),
    )
    settings = {
        "pytorch_model": model,
        "signature": signature,
        "input_example": example,
        "serialization_format": "pt2",
        # Given, so that MLflow does not start a process to find out.
        "pip_requirements": [f"{p.__name__}=={_version(p.__version__)}" for p in (mlflow, torch)],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow's and torch's own making
        # MLflow imports mlflow.pytorch when it is used first, here. With it comes Lightning, where
        # that is installed: seconds, which runs that log no model are spared.
        if run is None:
            mlflow.pytorch.save_model(path=str(folder), **settings)
            return None
        model_id = _enter(run)
        Model.log(None, mlflow.pytorch, run_id=run.run_id, model_id=model_id, **settings)
        return model_id


def _check_room(model: nn.Module, place: Path) -> None:
    """Raise OSError where a model's file would not fit.

    Torch's writer of archives ends the whole process where it cannot write, from C++.
    """
    size = sum(x.numel() * x.element_size() for x in model.state_dict().values())
    needed = BESIDE + 2 * size
    room = shutil.disk_usage(place).free
    longest, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if room < needed or (longest != resource.RLIM_INFINITY and longest < needed):
        raise OSError(errno.ENOSPC, f"no room for a file of {needed / 1e6:.0f} MB", str(place))


def register_model(run: MlflowRun, model_id: str, name: str) -> int:
    """Make a logged model of the run the next version of the registered model ``name``.

    Gives the version. Registers ``name`` where there is no such model yet. Raises what MLflow
    raises: the store is away, has no model registry, or knows a prompt by this name.
    """
    client = run.client
    _make_sure_of(client, name)
    made = client.create_model_version(
        name,
        f"models:/{model_id}",
        run.run_id,
        await_creation_for=0,  # MLflow's own stores have it at once, and would say that they wait
        model_id=model_id,
    )
    # As mlflow.register_model does, for the model's page to name its version; without, it is one
    # all the same.
    versions = json.dumps([{"name": name, "version": made.version}])
    with suppress(Exception):
        client.set_logged_model_tags(model_id, {MLFLOW_MODEL_VERSIONS: versions})
    return int(made.version)


def _make_sure_of(client: MlflowClient, name: str) -> None:
    """Register a model's name, unless it is there already."""
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        # Another process may have made it just now; asked for by its name, a prompt is no model.
        try:
            client.get_registered_model(name)
        except MlflowException:
            raise error from None


def _enter(run: MlflowRun) -> str:
    """The id of a new model in MLflow that belongs to the run and to its experiment.

    Left to itself, `Model.log` enters it into the default experiment, where the run's page and
    runs:/ID/model do not find it.
    """
    model = run.client.create_logged_model(
        run.experiment_id,
        name="model",
        source_run_id=run.run_id,
        params=run.client.get_run(run.run_id).data.params,
    )
    return str(model.model_id)


def _version(version: str) -> str:
    """Without the local part: 2.14.1+cpu is not to be had from a package index."""
    return version.partition("+")[0]
