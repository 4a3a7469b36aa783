"""Make requirements.lock and conda.yaml from the ranges in pyproject.toml: ``make lock``.

pip resolves the ranges without installing anything. What only Linux needs (CUDA libraries, Triton)
gets a marker, so the same lock installs on macOS. ``--keep`` holds on to every version that is
locked already, for when a dependency is added and nothing else should move.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ["ROOT", "closure", "read_lock", "read_ranges"]

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
CONDA = ROOT / "conda.yaml"

RUNTIME = "# What the project needs to run; conda.yaml lists the same."
DEV = "# What working on it needs besides."
LOCK_HEADER = """\
# Exact versions of every package, made by `make lock` from the ranges in pyproject.toml.
# `make setup` installs these and nothing else.
"""
CONDA_HEADER = """\
# Made by `make lock`: the first part of requirements.lock. Every package stands here by name,
# because MLflow caches environments by the content of this file.
name: layerscope
channels:
  - conda-forge
dependencies:
  - python=3.11
  - pip
  - pip:
"""
MACOS = {
    "os_name": "posix",
    "sys_platform": "darwin",
    "platform_system": "Darwin",
    "platform_machine": "arm64",
}


def read_ranges() -> tuple[list[str], list[str]]:
    """The dependencies in pyproject.toml: those to run, and those to develop and test with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    return project["dependencies"], [*extras["dev"], *extras["integrations"]]


def read_lock() -> tuple[list[str], list[str]]:
    """The lines of requirements.lock: those to run, and those for development."""
    runtime, dev = LOCK.read_text(encoding="utf-8").split(DEV)
    return _pins(runtime), _pins(dev)


def _pins(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def closure(
    roots: Iterable[str], requires: Mapping[str, list[str]], environment: Mapping[str, Any]
) -> set[str]:
    """Names of the packages that ``roots`` need, directly or not, in an environment.

    ``requires`` maps a normalised name to that package's requirements; a name that is missing from
    it is returned, but leads no further. ``environment`` holds marker variables (PEP 508).
    """
    seen: set[tuple[str, str]] = set()

    def needed(texts: Iterable[str], extra: str) -> list[Requirement]:
        variables = {**environment, "extra": extra}
        found = map(Requirement, texts)
        return [it for it in found if it.marker is None or it.marker.evaluate(variables)]

    todo = needed(roots, "")
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        for node in {(name, extra) for extra in ("", *requirement.extras)} - seen:
            seen.add(node)
            todo += needed(requires.get(name, []), node[1])
    return {name for name, _ in seen}


def _resolve(ranges: list[str], keep: bool) -> list[dict[str, Any]]:
    """Metadata of every package that pip would install for these ranges."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        constraints = ["--constraint", str(LOCK)] if keep else []
        subprocess.run([*pip, "--report", str(report), *constraints, *ranges], check=True)
        return [item["metadata"] for item in json.loads(report.read_text("utf-8"))["install"]]


def _write(versions: Mapping[str, str], runtime: set[str], macos: set[str]) -> None:
    def lines(names: Iterable[str]) -> list[str]:
        return [
            f"{name}=={versions[name]}" + ("" if name in macos else ' ; platform_system == "Linux"')
            for name in sorted(names)
        ]

    to_run, to_develop = lines(runtime), lines(versions.keys() - runtime)
    text = "\n".join([LOCK_HEADER, RUNTIME, *to_run, "", DEV, *to_develop, ""])
    LOCK.write_text(text, encoding="utf-8")
    quoted = [f"      - '{line}'" if ";" in line else f"      - {line}" for line in to_run]
    CONDA.write_text(CONDA_HEADER + "\n".join([*quoted, ""]), encoding="utf-8")


def main() -> None:
    """Resolve, write both files, and say how many packages they hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep versions locked already")
    keep = parser.parse_args().keep
    if platform.system() != "Linux" or sys.version_info[:2] != (3, 11):
        sys.exit("The lock is made on Linux with Python 3.11, so that it holds what Linux needs.")
    to_run, to_develop = read_ranges()
    packages = _resolve([*to_run, *to_develop], keep)
    versions: dict[str, str] = {canonicalize_name(it["name"]): it["version"] for it in packages}
    requires: dict[str, list[str]] = {
        canonicalize_name(it["name"]): it.get("requires_dist", []) for it in packages
    }
    here = default_environment()
    macos = closure([*to_run, *to_develop], requires, {**here, **MACOS})
    if unknown := sorted(macos - versions.keys()):
        sys.exit(f"Only macOS needs {', '.join(unknown)}; the lock cannot hold that yet.")
    _write(versions, closure(to_run, requires, here), macos)
    print(f"{LOCK.name} and {CONDA.name}: {len(versions)} packages")


if __name__ == "__main__":
    main()
