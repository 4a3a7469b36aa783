"""Install the packages of requirements.lock into the environment of this Python: ``make setup``.

The lock is complete, so nothing need be resolved. Python keeps what it compiles on import, so
nothing need be compiled beforehand, unless it has been told not to keep it. pip takes what weighs
gigabytes, since its settings may name a place nearby for it; uv takes the other two hundred, side
by side, in a tenth of pip's time. uv knows nothing of pip's settings, so it is told which registry
pip uses. Where it cannot do it, pip does.
"""

from __future__ import annotations

import compileall
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

__all__ = ["compile_packages", "heavy", "registry"]

LOCK = Path(__file__).resolve().parent.parent / "requirements.lock"
HEAVY = re.compile(r"(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+|uv)==")
NEVER_IMPORTED = r"/(tests?|transformers/models)/"


def heavy(lock: str) -> list[str]:
    """The lines of a lock that pip is to install first, uv's own among them."""
    return [line for line in lock.splitlines() if HEAVY.match(line)]


def registry(settings: str) -> str:
    """The URL of the registry in the output of `pip config list`; empty where it is pip's own."""
    found = re.findall(r"^[^=]*\.index-url='(.*)'$", settings, re.MULTILINE)
    return str(found[0]) if found else ""  # the environment's comes first


def compile_packages(folder: Path) -> None:
    """Compile the packages in a folder and keep the result beside them, on all cores.

    Images of containers often set PYTHONDONTWRITEBYTECODE. Every start of a command would then
    compile four thousand modules, which takes longer than all else that it does before it trains.
    """
    left_out = re.compile(re.escape(str(folder)) + ".*" + NEVER_IMPORTED)
    # Quiet: some packages carry templates that are no Python yet.
    compileall.compile_dir(folder, quiet=2, rx=left_out, workers=0)


def main() -> int:
    """Install everything; gives the installer's exit status."""
    status = _install()
    if status == 0 and sys.dont_write_bytecode:
        print(
            "compiling the packages, since PYTHONDONTWRITEBYTECODE keeps Python from doing it later"
        )
        compile_packages(Path(sysconfig.get_path("purelib")))
    return status


def _install() -> int:
    pip_itself = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    pip = [*pip_itself, "install", "--no-deps", "--no-compile"]
    first = heavy(LOCK.read_text(encoding="utf-8"))
    # A requirement with a marker is one argument, as it stands.
    subprocess.run([*pip, *first], check=False)
    uv = [sys.executable, "-m", "uv", "pip", "install", "--python", sys.executable, "--no-deps"]
    listed = subprocess.run([*pip_itself, "config", "list"], check=False, capture_output=True)
    index = registry(listed.stdout.decode())
    # In the environment, since a private registry's URL may hold a password.
    told = os.environ | ({"UV_DEFAULT_INDEX": index} if index else {})
    if subprocess.run([*uv, "-r", LOCK], check=False, env=told).returncode == 0:
        return 0
    return subprocess.run([*pip, "-r", LOCK], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
