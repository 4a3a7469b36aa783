"""Two processes that train together: their records are those of the global batch."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.integration import rank
from tests.integration.rank import record

__all__: list[str] = []

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class TwoRanks:
    """What both processes have left and said: in their second training one of them fails."""

    folder: Path
    ended: list[tuple[int, str]]
    """Exit code and standard error of each."""


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> TwoRanks:
    folder = tmp_path_factory.mktemp("ranks")
    processes = [
        subprocess.Popen(
            [sys.executable, rank.__file__, str(folder), str(index), "2"],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    said = [process.communicate(timeout=120)[1] for process in processes]
    ended = [(p.returncode, text) for p, text in zip(processes, said, strict=True)]
    return TwoRanks(folder, ended)


def tables(folder: Path) -> tuple[pa.Table, pa.Table]:
    return (
        pq.read_table(folder / "stats" / "stats.parquet"),
        pq.read_table(folder / "steps" / "steps.parquet"),
    )


def rows(table: pa.Table) -> list[dict[str, object]]:
    return [{k: v for k, v in row.items() if k != "time"} for row in table.to_pylist()]


def assert_equal(found: pa.Table, expected: pa.Table) -> None:
    """Whole numbers and histograms exactly, other numbers to 1e-9."""
    assert found.schema.equals(expected.schema, check_metadata=True)
    for row, wanted in zip(rows(found), rows(expected), strict=True):
        for name, value in wanted.items():
            about = pytest.approx(value, rel=1e-9, abs=1e-12) if type(value) is float else value
            assert row[name] == about, (name, row, wanted)


def test_two_ranks_record_the_global_batch(two_ranks: TwoRanks, tmp_path: Path) -> None:
    record(tmp_path, slice(0, 8))
    found, expected = tables(two_ranks.folder / "well"), tables(tmp_path)
    # Which layers a rank calls depends on its share of the batch.
    rare = pa.compute.not_equal(expected[0]["layer"].cast(pa.string()), "rare")
    kept = pa.compute.not_equal(found[0]["layer"].cast(pa.string()), "rare")
    assert_equal(found[0].filter(kept), expected[0].filter(rare))
    assert pa.compute.any(pa.compute.invert(kept)).as_py()
    assert_equal(found[1], expected[1])


def test_one_rank_alone_may_evaluate(two_ranks: TwoRanks) -> None:
    stats, steps = tables(two_ranks.folder / "uneven")
    assert steps["batch_size"].to_pylist() == [sum(rank.SHARES)] * rank.STEPS
    found = {mode: set() for mode in ("train", "eval")}
    for row in stats.select(["step", "mode"]).to_pylist():
        found[row["mode"]].add(row["step"])
    assert found == {"train": set(range(0, rank.STEPS, 3)), "eval": {4, 9, 14, 19}}
    conv = stats.filter(pa.compute.equal(stats["layer"].cast(pa.string()), "relu")).to_pylist()
    sizes = {row["step"]: row["count"] for row in conv if row["mode"] == "train"}
    assert len(set(sizes.values())) == 1
    alone = {row["count"] for row in conv if row["mode"] == "eval"}
    assert alone == {next(iter(sizes.values())) * rank.SHARES[0] // sum(rank.SHARES)}


@pytest.mark.parametrize(
    ("name", "samples"), [("whole", sum(rank.SHARES)), ("first", rank.SHARES[0])]
)
def test_the_first_rank_leaves_a_whole_run(two_ranks: TwoRanks, name: str, samples: int) -> None:
    folder = two_ranks.folder / name
    steps = pq.read_table(folder / "hyperparameters" / "steps.parquet")
    assert steps["batch_size"].to_pylist() == [samples] * rank.STEPS
    stats = pq.read_table(folder / "activations" / "stats.parquet")
    assert set(stats["step"].to_pylist()) == set(range(rank.STEPS))
    assert (folder / "activations" / "color_dim.png").exists()
    assert (folder / "diagnosis.json").exists()


def test_rank_that_fails_leaves_the_other_with_its_own_rows(two_ranks: TwoRanks) -> None:
    (well, said), (ill, cries) = two_ranks.ended
    assert ill == 1
    assert "this rank fails" in cries
    assert well == 0, said
    assert said.count("a rank has gone; from here on, records are of rank 0 alone") == 2
    stats, steps = tables(two_ranks.folder / "ill")
    sizes = dict(zip(steps["step"].to_pylist(), steps["batch_size"].to_pylist(), strict=True))
    assert list(sizes) == list(range(rank.STEPS))
    assert [sizes[step] for step in (0, 7, 8, 20)] == [8, 8, 5, 5]
    assert max(stats["step"].to_pylist()) == rank.STEPS - 1
    assert {step for step in stats["step"].to_pylist() if step % 5 != 4} == set(range(0, 21, 2)) - {
        4,
        14,
    }
