"""Triton's kernel compiles for a GPU, also where there is none to run it on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

__all__: list[str] = []

pytest.importorskip("triton")
COMPILE = """
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tracking.statistics.kernels.triton_reduction import reduce_blocks

kind, one, large = sys.argv[1], sys.argv[2] == "one", sys.argv[3] == "large"
pointers = {"x_ptr": kind, "ints_ptr": "i64", "floats_ptr": "fp64", "alive_ptr": "u8"}
pointers |= {"partials_ptr": "fp64", "finished_ptr": "i32"}
fixed = {"eps": 0.05, "threshold": 1.0, "has_channels": not one, "large": large}
fixed |= {"block": 2048, "most": 512, **({"n": 1} if one else {})}
signature = {name: "i64" if large and name == "n" else "i32" for name in reduce_blocks.arg_names}
signature |= {name: "*" + of for name, of in pointers.items()}
signature |= dict.fromkeys(fixed, "constexpr")
source = ASTSource(reduce_blocks, signature, fixed)
code = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8})
print(".entry reduce_blocks" in code.asm["ptx"])
"""


@pytest.mark.parametrize(
    ("kind", "one", "large"),
    [("fp32", "", ""), ("fp32", "one", ""), ("bf16", "", "large"), ("fp64", "", "")],
)
def test_it_compiles(kind: str, one: str, large: str, tmp_path: Path) -> None:
    # In a process of its own: here Triton may be the interpreter. The cache may hold the result.
    environment = {name: os.environ[name] for name in os.environ.keys() - {"TRITON_INTERPRET"}}
    result = subprocess.run(
        [sys.executable, "-c", COMPILE, kind, one, large],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.curdir},
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert result.stdout == "True\n", result.stderr
