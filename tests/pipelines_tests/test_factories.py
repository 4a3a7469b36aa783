"""Callables from the user's own modules, and what may be wrong with them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pipelines.factories import load_factory
from tracking.errors import BadDataset, BadInput, BadModel

__all__: list[str] = []


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of the user's, with a module and a package in it, as the current one."""
    (tmp_path / "own_factories.py").write_text("def make(): return 3\nnumber = 4\n")
    (tmp_path / "own_broken.py").write_text("raise RuntimeError('first\\nsecond')\n")
    (tmp_path / "own_script.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "inner.py").write_text("class Net: pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.startswith("own_")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def test_finds_modules_in_the_current_directory(project: Path) -> None:
    assert load_factory("own_factories:make", BadDataset)() == 3
    assert load_factory("own_package.inner:Net", BadModel).__name__ == "Net"
    assert sys.path.count(str(project)) == 1


def test_finds_installed_modules() -> None:
    assert load_factory("collections:OrderedDict", BadDataset)() == {}


@pytest.mark.parametrize("kind", [BadDataset, BadModel])
@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("own_missing:make", "own_missing cannot be imported (ModuleNotFoundError: "),
        ("own_script:make", "own_script cannot be imported (SystemExit: 0)"),
        ("own_broken:make", "own_broken cannot be imported (RuntimeError: first second)"),
        ("own_factories:made", "own_factories has no 'made'. Did you mean 'make'?"),
        ("own_factories:number", "number is a int; expected a callable"),
    ],
)
def test_one_line_about_what_cannot_be_loaded(spec: str, reason: str, kind: type[BadInput]) -> None:
    with pytest.raises(kind) as caught:
        load_factory(spec, kind)
    assert str(caught.value).startswith(f"{spec}: {reason}")
    assert "\n" not in str(caught.value)
