"""The peers' packages: installed once, anew when the list changes, or not at all."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.peers import packages
from scripts.lock import read_lock

__all__: list[str] = []


@pytest.fixture(autouse=True)
def path_and_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """No registry, and a module search path that is as it was afterwards."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(sys, "path", list(sys.path))


def wheel_of_a_peer(folder: Path) -> Path:
    """A package that pip installs without any registry: a wheel, which is a zip file."""
    wheel = folder / "layerscope_peer-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("layerscope_peer.py", "ANSWER = 42\n")
        info = "layerscope_peer-1.0.dist-info"
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: layerscope-peer\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def add(folder: Path, requirements: Path) -> str:
    """What a new process that needs the peer does: the folder is not on its path yet."""
    sys.path[:] = [entry for entry in sys.path if entry != str(folder)]
    return packages.add_peers(folder, requirements, ["layerscope_peer"])


def test_without_a_registry_one_line_says_so(tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("layerscope-peer==1.0\n", encoding="utf-8")
    before = list(sys.path)
    reason = add(tmp_path / "peers", requirements)
    assert "layerscope-peer==1.0" in reason
    assert "\n" not in reason
    assert sys.path == before


def test_peers_are_installed_once_and_come_last(tmp_path: Path) -> None:
    folder, requirements = tmp_path / "peers", tmp_path / "requirements.txt"
    requirements.write_text(f"{wheel_of_a_peer(tmp_path)}\n", encoding="utf-8")
    assert add(folder, requirements) == ""
    assert sys.path[-1] == str(folder)
    (folder / "layerscope_peer.py").write_text("ANSWER = 43\n", encoding="utf-8")
    assert add(folder, requirements) == ""
    assert "43" in (folder / "layerscope_peer.py").read_text(encoding="utf-8")
    assert sys.path.count(str(folder)) == 1


def test_peers_are_installed_anew_when_the_list_has_changed(tmp_path: Path) -> None:
    folder, requirements = tmp_path / "peers", tmp_path / "requirements.txt"
    wheel = wheel_of_a_peer(tmp_path)
    requirements.write_text(f"{wheel}\n", encoding="utf-8")
    assert add(folder, requirements) == ""
    (folder / "layerscope_peer.py").unlink()
    requirements.write_text(f"# changed\n{wheel}\n", encoding="utf-8")
    assert add(folder, requirements) == ""
    assert (folder / "layerscope_peer.py").is_file()


def test_nothing_is_installed_where_the_environment_has_the_peers(tmp_path: Path) -> None:
    folder, missing = tmp_path / "peers", tmp_path / "requirements.txt"
    assert packages.add_peers(folder, missing, ["json", "torch"]) == ""
    assert not folder.exists()
    assert str(folder) not in sys.path


def test_requirements_are_exact_and_those_of_the_lock() -> None:
    lines = packages.REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pins = [Requirement(line) for part in read_lock() for line in part]
    locked = {canonicalize_name(pin.name): str(pin.specifier) for pin in pins}
    assert {one.name for one in wanted} >= set(packages.PEERS)
    for one in wanted:
        version = str(one.specifier)
        assert version.startswith("==")
        assert locked.get(canonicalize_name(one.name), version) == version, one.name
