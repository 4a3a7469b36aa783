"""The peers' packages: where the environment lacks them, they are installed beside it, once."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

__all__ = ["FOLDER", "PEERS", "REQUIREMENTS", "add_peers"]

PEERS = ("fastai", "lightning")

REQUIREMENTS = Path(__file__).parent.parent / "requirements.txt"
FOLDER = Path(sys.prefix) / "benchmark-peers"
"""Inside the environment, with which it goes, but not among its own packages."""


def add_peers(
    folder: Path = FOLDER, requirements: Path = REQUIREMENTS, modules: Sequence[str] = PEERS
) -> str:
    """Make ``modules`` importable; says in one line why that failed, or nothing.

    Those that the environment lacks are installed into ``folder``, unless they are there, by what
    ``requirements`` lists, and without dependencies, which the file lists or the environment has.
    The environment's own packages come first: what is measured is what is locked.
    """
    if all(map(find_spec, modules)):
        return ""
    stamp = folder / requirements.name
    wanted = requirements.read_text(encoding="utf-8")
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
        failure = _install(folder, requirements)
        if failure:
            return f"the peers cannot be installed ({failure})"
        stamp.write_text(wanted, encoding="utf-8")
    sys.path.append(str(folder))
    importlib.invalidate_caches()
    return ""


def _install(folder: Path, requirements: Path) -> str:
    """What pip complained about last, or nothing."""
    shutil.rmtree(folder, ignore_errors=True)
    print(f"installing the peers into {folder}", flush=True)
    options = ["--quiet", "--no-input", "--disable-pip-version-check", "--retries", "1"]
    command = [sys.executable, "-m", "pip", "install", *options, "--no-deps"]
    result = subprocess.run(
        [*command, "--target", str(folder), "-r", str(requirements)],
        capture_output=True,
        text=True,
        check=False,
    )
    if not result.returncode:
        return ""
    complaints = [line for line in result.stderr.splitlines() if "error" in line.lower()]
    return complaints[-1] if complaints else f"pip ended with {result.returncode}"
