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
from PIL import Image, ImageOps

__all__ = ["image_name", "log_image"]

FOLDER = "images"
SHOWN = 1200
"""Longest side in pixels of the copy that the page shows. MLflow's own have 256: it never enlarges
them, also where the picture fills the window.
"""


def image_name(key: str, step: int) -> str:
    """A new file name, without its ending, that MLflow's page recognises as this key and step."""
    safe = re.sub(r"[^\w\-. ~]", "_", key.replace("/", "~"), flags=re.ASCII)
    return f"{safe}+step+{step}+timestamp+{int(time.time() * 1000)}+{uuid.uuid4()}"


def log_image(client: MlflowClient, run_id: str, path: Path, name: str) -> None:
    """Log a PNG, and the copy that the page shows, under a name of ``image_name``.

    Raises what the client raises.
    """
    with tempfile.TemporaryDirectory(prefix="layerscope-") as folder:
        whole, small = Path(folder, f"{name}.png"), Path(folder, f"{name}+compressed.webp")
        shutil.copyfile(path, whole)
        with Image.open(path) as image:
            ImageOps.contain(image.convert("RGB"), (SHOWN, SHOWN)).save(small)
        for file in (whole, small):
            client.log_artifact(run_id, str(file), FOLDER)
    client.set_tag(run_id, MLFLOW_LOGGED_IMAGES, "True")
