"""The project's own promises: one lock, true MLproject parameters, imports that run one way."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import tomllib
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml
from mlflow.exceptions import ExecutionException
from mlflow.projects._project_spec import Project, load_project
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import BaseModel

import tracking
from pipelines.config import RunConfig
from pipelines.lr_range_config import LrRangeConfig
from scripts.install import compile_packages, heavy, registry
from scripts.lock import ROOT, closure, read_lock, read_ranges
from search.cli import study
from search.config import CompareConfig, StudyConfig

__all__: list[str] = []

LAYERS = ("layerscope", "search", "pipelines", "tracking")
MODULES = sorted(
    path
    for layer in LAYERS
    for path in (ROOT / f"{layer}.py", *(ROOT / layer).rglob("*.py"))
    if path.is_file()
)
HEAVY = {
    *("matplotlib", "mlflow", "numba", "optuna", "pandas", "plotly"),
    *("pyarrow", "sklearn", "sqlalchemy", "torch", "torchvision"),
}
ENTRY_POINTS: dict[str, tuple[str, tuple[type[BaseModel], ...]]] = {
    "main": ("train", (RunConfig,)),
    "lr_find": ("lr-find", (RunConfig, LrRangeConfig)),
    "study": ("study run", (StudyConfig, RunConfig)),
    "worker": ("study worker", (StudyConfig,)),
    "compare": ("compare", (CompareConfig, RunConfig)),
    "resume": ("resume", ()),
}
# A study has no name of its own: MLflow asks for the parameters that it must be given.
REQUIRED = {
    *(("study", "name"), ("worker", "name"), ("resume", "run_id")),
    *(("compare", "factor"), ("compare", "values")),
}
ARGUMENTS = {("resume", "run_id")}
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 250, 50
LONG = {"reduce_blocks"}  # one program on a GPU, which holds its sums in registers
needs_own_environment = pytest.mark.skipif(
    Path(sys.prefix).resolve() != ROOT / ".venv",
    reason="not in the project's own environment (make test)",
)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# -- one lock --


def pins() -> list[Requirement]:
    return [Requirement(line) for part in read_lock() for line in part]


def test_lock_satisfies_the_ranges() -> None:
    locked = {canonicalize_name(pin.name): str(pin.specifier)[2:] for pin in pins()}
    for line in (range_ for part in read_ranges() for range_ in part):
        wanted = Requirement(line)
        version = locked.get(canonicalize_name(wanted.name))
        assert version, f"{wanted.name} is not locked: make lock"
        assert wanted.specifier.contains(version), f"{line}, locked {version}: make lock"


def test_lock_is_exact_and_sorted() -> None:
    for part in read_lock():
        names = [line.split("==")[0] for line in part]
        assert names == sorted(names)
        assert names == [canonicalize_name(name) for name in names]
    assert all(re.fullmatch(r"==[\w.]+", str(pin.specifier)) for pin in pins())
    assert len({pin.name for pin in pins()}) == len(pins())


def test_conda_environment_is_the_runtime_part_of_the_lock() -> None:
    conda = yaml.safe_load((ROOT / "conda.yaml").read_text(encoding="utf-8"))
    python, pip, packages = conda["dependencies"]
    assert (python, pip) == ("python=3.11", "pip")
    assert packages == {"pip": read_lock()[0]}


@needs_own_environment
def test_installed_environment_equals_the_lock() -> None:
    installed = {
        canonicalize_name(item.name): item.version
        for item in importlib.metadata.distributions(
            # Not sys.path: setuptools, once imported, puts packages of its own on it.
            path=[sysconfig.get_path("purelib")]
        )
    }
    del installed["pip"]
    here = [pin for pin in pins() if pin.marker is None or pin.marker.evaluate()]
    assert installed == {pin.name: str(pin.specifier)[2:] for pin in here}


@needs_own_environment
def test_locked_packages_fit_together() -> None:
    check = [sys.executable, "-m", "pip", "check"]
    result = subprocess.run(check, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@needs_own_environment
def test_runtime_part_is_what_the_runtime_ranges_need() -> None:
    requires = {
        canonicalize_name(item.name): list(item.requires or [])
        for item in importlib.metadata.distributions(
            # Not sys.path: setuptools, once imported, puts packages of its own on it.
            path=[sysconfig.get_path("purelib")]
        )
    }
    here = {
        pin.name
        for pin in map(Requirement, read_lock()[0])
        if pin.marker is None or pin.marker.evaluate()
    }
    assert closure(read_ranges()[0], requires, default_environment()) == here


def test_closure_follows_extras_and_markers() -> None:
    requires = {
        "a": ['b[fast]>=1; platform_system == "Linux"', 'c; extra == "unused"'],
        "b": ['d; extra == "fast"', "a"],
    }
    assert closure(["A"], requires, {"platform_system": "Linux"}) == {"a", "b", "d"}
    assert closure(["A"], requires, {"platform_system": "Darwin"}) == {"a"}
    assert closure(
        ['a; platform_system == "Linux"', "c"], requires, {"platform_system": "Darwin"}
    ) == {"c"}


def test_pip_takes_what_is_heavy_and_uv_the_rest() -> None:
    to_run, to_develop = read_lock()
    first = {Requirement(line).name for line in heavy("\n".join([*to_run, *to_develop]))}
    assert {"torch", "torchvision", "triton", "uv", "nvidia-cublas"} <= first
    assert not first & {"mlflow", "torchmetrics", "uvicorn", "uvloop"}


def test_uv_is_told_which_registry_pip_uses() -> None:
    own = ":env:.timeout='180'\nglobal.extra-index-url='file:///a'\nglobal.cert='/c.pem'\n"
    assert registry(own) == ""
    assert registry(f"{own}global.index-url='https://a:b@c/simple'\n") == "https://a:b@c/simple"


def test_packages_are_compiled_wherever_they_lie_but_for_what_nobody_imports(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "test" / "site-packages"
    code = "x = 1\n"
    for name, content in (
        ("whole/part.py", code),
        ("whole/tests/test_part.py", code),
        ("test/of.py", code),
        ("latest/template.py", "class {{name}}:\n"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    compile_packages(folder)
    compiled = {path.relative_to(folder).as_posix() for path in folder.rglob("*.pyc")}
    assert compiled == {f"whole/__pycache__/part.{sys.implementation.cache_tag}.pyc"}


def test_pre_commit_brings_no_second_version_of_a_tool() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert {repo["repo"] for repo in config["repos"]} == {"local"}
    assert all(hook["language"] == "system" for hook in hooks)
    assert all(hook["entry"].startswith(".venv/bin/") for hook in hooks)


# -- MLproject --


@cache
def project() -> Project:
    return load_project(str(ROOT))


def declared() -> list[tuple[str, str]]:
    content = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))
    entries = content["entry_points"].items()
    return [(entry, name) for entry, body in entries for name in body["parameters"]]


def test_mlproject_is_built_from_conda_yaml() -> None:
    assert project().name == "layerscope"
    assert project().env_config_path == str(ROOT / "conda.yaml")
    assert {entry for entry, _ in declared()} == set(ENTRY_POINTS)


def command_of(entry: str, **given: str) -> list[str]:
    """What MLflow runs for an entry point, with a value for each parameter that must have one."""
    required = {name: "a name" for needed, name in REQUIRED if needed == entry}
    return shlex.split(project().get_entry_point(entry).compute_command(required | given, None))


@pytest.mark.parametrize(("entry", "name"), declared())
def test_parameter_reaches_the_command(entry: str, name: str) -> None:
    value = f"a '{name}' with $HOME"
    command = command_of(entry, **{name: value})
    words = ENTRY_POINTS[entry][0].split()
    assert command[: 2 + len(words)] == ["python", "layerscope.py", *words]
    if (entry, name) in ARGUMENTS:
        assert command[2 + len(words) :] == [value]
    else:
        assert command[command.index(f"--{name.replace('_', '-')}") + 1] == value


@pytest.mark.parametrize(("entry", "name"), sorted({*declared()} - ARGUMENTS))
def test_parameter_has_type_and_default_of_the_option(entry: str, name: str) -> None:
    parameter = project().get_entry_point(entry).parameters[name]
    kind = next(kind for kind in ENTRY_POINTS[entry][1] if name in kind.model_fields)
    option = kind.model_fields[name]
    assert parameter.type == ("float" if option.annotation in (int, float) else "string")
    if (entry, name) in REQUIRED:
        assert parameter.default is None
        return
    # MLflow logs the declared default as it stands, and a run's parameter cannot change: 1e-07 is
    # not 1e-7.
    assert str(parameter.default) == str(option.default)


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_other_options_pass_through(entry: str) -> None:
    assert command_of(entry, momentum_min="0.8")[-2:] == ["--momentum_min", "0.8"]


@pytest.mark.parametrize(("entry", "name"), sorted(REQUIRED))
def test_a_required_parameter_is_asked_for(entry: str, name: str) -> None:
    with pytest.raises(
        ExecutionException, match=rf"No value given for missing parameters: .*'{name}'"
    ):
        project().get_entry_point(entry).compute_command({}, None)


def test_no_parameter_holds_the_storage() -> None:
    """Its URL may have a password, and parameters are there for everyone to read."""
    assert not {name for _, name in declared() if "storage" in name}


def test_worker_takes_the_options_of_its_command() -> None:
    command = study.commands["worker"]
    flags = {option for parameter in command.params for option in parameter.opts}
    names = {name for entry, name in declared() if entry == "worker"}
    assert {f"--{name.replace('_', '-')}" for name in names} <= flags


# -- the house --


def imports(path: Path) -> set[str]:
    """Top-level names of everything that a module imports, at whatever depth."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = relative(path) if node.level else str(node.module)
            names.add(re.split(r"[./]", module)[0])
    return names


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_imports_run_one_way(path: Path) -> None:
    place = relative(path)
    found = imports(path)
    own = LAYERS.index(place.split("/")[0].removesuffix(".py"))
    assert not found & set(LAYERS[:own])
    assert "mlflow" not in found or place.startswith("tracking/mlflow_runs/")
    assert "optuna" not in found or place.startswith("search/")


def parts_imported(path: Path, package: str) -> set[str]:
    """Modules and packages of a package that a module of it imports."""
    return {
        node.module.split(".")[1]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(f"{package}.")
    }


def parts_of(package: str) -> dict[str, set[str]]:
    """Each module and package of a package -> those of the others that it imports."""
    needs: dict[str, set[str]] = {}
    for path in (ROOT / package).rglob("*.py"):
        part = path.relative_to(ROOT / package).parts[0].removesuffix(".py")
        needs.setdefault(part, set()).update(parts_imported(path, package) - {part})
    return needs


@pytest.mark.parametrize(
    ("package", "some"),
    [
        ("tracking", ["recorders", "mlflow_runs", "cli"]),
        ("search", ["space", "storage", "reports", "comparisons", "commands"]),
        ("search", ["storage", "trials", "workers", "commands"]),
    ],
)
def test_the_parts_of_a_package_import_one_way(package: str, some: list[str]) -> None:
    # Raises CycleError, which names the cycle.
    order = list(TopologicalSorter(parts_of(package)).static_order())
    assert some == sorted(some, key=order.index)


def test_diagnosis_and_recorders_know_nothing_of_each_other() -> None:
    needs = parts_of("tracking")
    assert "recorders" not in needs["diagnosis"]
    assert "diagnosis" not in needs["recorders"]


def test_every_import_is_a_declared_dependency() -> None:
    distributions = importlib.metadata.packages_distributions()
    runtime, others = (
        {canonicalize_name(Requirement(line).name) for line in lines} for lines in read_ranges()
    )
    for path in MODULES:
        # Other libraries' training loops are optional.
        optional = others if "integrations" in path.parts else set()
        for name in imports(path) - set(LAYERS) - sys.stdlib_module_names:
            brought_by = {canonicalize_name(it) for it in distributions.get(name, [])}
            assert brought_by & (runtime | optional), f"{name} is missing in pyproject.toml"


@pytest.mark.parametrize(
    "command",
    [
        "",
        "train",
        "resume",
        "lr-find",
        "compare",
        "study",
        *(f"study {name}" for name in study.commands),
    ],
)
def test_help_imports_nothing_heavy(command: str) -> None:
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "layerscope.py", *command.split(), "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-500:]
    loaded = {line.split("|")[-1].strip().split(".")[0] for line in result.stderr.splitlines()}
    assert "click" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_files_and_functions_are_short(path: Path) -> None:
    """CONTRIBUTING's house rule, in numbers."""
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name not in LONG:
            assert (node.end_lineno or 0) - node.lineno < MOST_LINES_OF_A_FUNCTION, node.name


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_module_says_what_it_is_for_and_what_it_offers(path: Path) -> None:
    module = ast.parse(path.read_text(encoding="utf-8"))
    if path.name == "__init__.py" and not module.body:
        return
    assert ast.get_docstring(module)
    targets = [
        target
        for node in module.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    ]
    assert "__all__" in [target.id for target in targets if isinstance(target, ast.Name)]


def test_tree_names_no_machine_and_no_registry() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so the project's own files are not known")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    private = re.compile(
        rb"(?<![\w.])/(work|tmp/w|opt/wheels|opt/pypi)\b|\.py[e]nv|\bpypi\.org|pythonhosted\.org"
        rb"|download\.pytorch\.org|anaconda\.(com|org)|(deb|security)\.debian\.org|ghcr\.io"
    )
    found = [
        f"{name}: {match[0].decode()}"
        for name in filter(None, files.split("\0"))
        if (ROOT / name).is_file() and (match := private.search((ROOT / name).read_bytes()))
    ]
    assert found == []


def test_ci_can_be_run() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_what_is_installed_is_what_is_here() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["version"] == tracking.__version__
    packages = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for layer in LAYERS[1:]
        for path in (ROOT / layer).rglob("__init__.py")
    }
    assert set(project["tool"]["setuptools"]["packages"]) == packages
