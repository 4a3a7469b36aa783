"""Names for MLflow's model registry: what it refuses, and what could not be loaded again."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tracking.errors import BadOption
from tracking.mlflow_runs.model_names import check_model_name

__all__: list[str] = []


@pytest.mark.parametrize(
    "name", ["", "  ", "a/b", "models:/a", "what?", ".", "..", "..a", "a\nb", "a\x00", "x" * 257]
)
def test_name_that_cannot_be_used_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(BadOption, match=r"^model name .* allowed: 1 to 256 printable") as caught:
        check_model_name(name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["digits", "my model-2.1_b", "1", ".a", "é", "a#b@c", "x" * 256])
def test_name_that_can_be_used(name: str) -> None:
    check_model_name(name)


def test_mlflow_is_not_imported_for_it() -> None:
    code = "import sys, tracking.mlflow_runs.model_names; sys.exit('mlflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
