"""Pictures with a step, as MLflow's run page shows them: a slider for each key.

MLflow's own ``log_image`` draws a new name each time; here a picture keeps the name that it was
given when it was made, so that sending it again after a failure replaces it.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
import uuid
from pathlib import Path

from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES
from PIL import Image

__all__ = ["image_name", "log_image"]

FOLDER = "images"
PREVIEW = 256
"""Longest side of the small copy that the page shows first, as in MLflow."""


def image_name(key: str, step: int) -> str:
    """A new file name, without its ending, that MLflow's page recognises as this key and step."""
    safe = re.sub(r"[^\w\-. ~]", "_", key.replace("/", "~"), flags=re.ASCII)
    return f"{safe}+step+{step}+timestamp+{int(time.time() * 1000)}+{uuid.uuid4()}"


def log_image(client: MlflowClient, run_id: str, path: Path, name: str) -> None:
    """Log a PNG and its preview under a name of ``image_name``. Raises what the client raises."""
    with tempfile.TemporaryDirectory(prefix="layerscope-") as folder:
        whole, small = Path(folder, f"{name}.png"), Path(folder, f"{name}+compressed.webp")
        shutil.copyfile(path, whole)
        with Image.open(path) as image:
            preview = image.convert("RGB")
        preview.thumbnail((PREVIEW, PREVIEW))
        preview.save(small)
        for file in (whole, small):
            client.log_artifact(run_id, str(file), FOLDER)
    client.set_tag(run_id, MLFLOW_LOGGED_IMAGES, "True")
