"""Record files on disk: parts while they are written, one Parquet file when they are done.

A flush adds a part under ``parts/<name>/``; a part appears under its final name only when it is
whole, so a killed process leaves nothing half-written to trip over. Compaction streams the parts
into one file and then removes them; memory holds one row group at a time.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tracking.errors import BadTracking, RecordsDamaged, RecordsUnwritten
from tracking.reasons import first_line

__all__ = ["RecordFile", "numbered_slices", "read_batches", "read_records", "read_slices"]

# Rows gathered into one row group of the compacted file.
ROW_GROUP = 1 << 13

# With checksums, a page that was damaged on disk is refused instead of read as other numbers.
_FORMAT = {"compression": "zstd", "write_page_checksum": True}
# Parts are written while the training waits, and do not stay.
_PART = {"compression": "lz4", "write_page_checksum": True, "write_statistics": False}


class RecordFile:
    """One table of records that grows by parts and ends as ``<directory>/<name>``.

    Without ``directory`` the file lives in a temporary one, which goes when this object does.
    What an earlier run left there under this name is removed. A forked process, which has a copy of
    the object, writes nothing: the file is its parent's. Columns of the parts that ``schema``
    lacks are added to it. Raises BadTracking: the directory cannot be made or written.
    """

    def __init__(self, name: str, schema: pa.Schema, directory: Path | str | None = None) -> None:
        if directory is None:
            directory = tempfile.mkdtemp(prefix="layerscope-")
            weakref.finalize(self, _remove, directory, os.getpid())
        self._owner = os.getpid()
        self.path = Path(directory) / name
        self._schema = schema
        self._parts = self.path.parent / "parts" / self.path.stem
        self._count = 0
        self._closed = False
        try:
            self._parts.mkdir(parents=True, exist_ok=True)
            for stale in [self.path, *self._parts.iterdir()]:
                stale.unlink(missing_ok=True)
        except OSError as error:
            reason = f"{error.filename}: {error.strerror}"
            raise BadTracking(f"{self.path}: cannot be written ({reason})") from None
        if not os.access(self._parts, os.W_OK):
            raise BadTracking(f"{self.path}: cannot be written ({self._parts}: no permission)")

    def append(self, table: pa.Table) -> None:
        """Write a table as the next part. Raises RecordsUnwritten: the disk does not take it."""
        if os.getpid() != self._owner:
            return
        part = self._parts / f"{self._count:08}.parquet"
        with _writing(part):
            _write_whole(table, part)
        self._count += 1

    def take_over(self, source: Path, before: int) -> None:
        """Begin with the rows of an earlier table whose ``step`` is below ``before``.

        ``source`` is a file or a folder of parts, with rows in order of their steps; nothing
        has been appended yet. Raises RecordsDamaged, RecordsUnwritten.
        """
        for table in read_batches(source):
            rows = int(np.searchsorted(table["step"].to_numpy(), before))
            if rows:
                self.append(table.slice(0, rows))

    def source(self) -> Path:
        """Where the rows are now: the one file, or the folder of parts."""
        return self.path if self._closed else self._parts

    def close(self) -> Path:
        """Join the parts into ``path``; without any part the file is empty but has its schema.

        Raises RecordsDamaged: a part cannot be read; it is named, and all parts stay;
        RecordsUnwritten: the disk does not take the file.
        """
        if not self._closed and os.getpid() == self._owner:
            with _writing(self.path):
                _compact(self._parts, self.path, self._schema)
            self._closed = True
            # What cannot be removed now does no harm: nobody looks there any more.
            done = self._parts.parent if _only_child(self._parts) else self._parts
            shutil.rmtree(done, ignore_errors=True)
        return self.path


def _remove(directory: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked process, which ends sooner, has not made it
        shutil.rmtree(directory, ignore_errors=True)


def read_records(source: Path) -> pa.Table:
    """The whole table at ``source``, a Parquet file or a folder of parts.

    Raises RecordsDamaged: a file is no readable Parquet; it is named.
    """
    batches = list(read_batches(source))
    return pa.concat_tables(batches, promote_options="default")


def read_batches(source: Path) -> Iterator[pa.Table]:
    """The row groups at ``source`` one after another; at least one, which may be empty.

    Raises RecordsDamaged: a file is no readable Parquet, or nothing is there.
    """
    for file in _files(source):
        with _opened(file) as parquet:
            yield from _row_groups(parquet)


def read_slices(source: Path, columns: Sequence[str], rows: int = ROW_GROUP) -> Iterator[pa.Table]:
    """Some columns at ``source``, at most ``rows`` rows at a time; an empty table first.

    A column that a file lacks is left out. Raises RecordsDamaged as read_batches does.
    """
    for _, table in numbered_slices(source, columns, rows):
        yield table


def numbered_slices(
    source: Path, columns: Sequence[str], rows: int, share: int = 0, shares: int = 1
) -> Iterator[tuple[int, pa.Table]]:
    """What read_slices gives, with the number of the row group that each table is of.

    Of ``shares`` readers, each of which may have a thread of its own, one gives every so many-th
    row group, beginning with number ``share``; together they give all.
    """
    number = 0
    for file in _files(source):
        with _opened(file) as parquet:
            schema = parquet.schema_arrow
            names = [name for name in schema.names if name in columns]
            yield number, schema.empty_table().select(names)
            # One row group at a time: the reader keeps what it has of all that it is given.
            for group in range(parquet.num_row_groups):
                if number % shares == share:
                    for batch in parquet.iter_batches(rows, row_groups=[group], columns=names):
                        table = pa.Table.from_batches([batch])
                        yield number, table.replace_schema_metadata(schema.metadata)
                number += 1


def _files(source: Path) -> list[Path]:
    files = sorted(source.glob("*.parquet")) if source.is_dir() else [source]
    if not files:
        raise RecordsDamaged(f"{source}: holds no records")
    return files


@contextmanager
def _opened(file: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            yield parquet
    except (OSError, ValueError, pa.ArrowException) as error:
        raise RecordsDamaged(f"{file}: cannot be read as Parquet ({first_line(error)})") from None


def _row_groups(parquet: pq.ParquetFile) -> Iterator[pa.Table]:
    if not parquet.num_row_groups:
        yield parquet.schema_arrow.empty_table()
    for index in range(parquet.num_row_groups):
        yield parquet.read_row_group(index)


def _compact(parts: Path, target: Path, schema: pa.Schema) -> None:
    files = sorted(parts.glob("*.parquet"))
    whole = schema
    for file in files:
        with _opened(file) as parquet:
            # One after another: the schemas of a long run's parts would take megabytes together.
            whole = pa.unify_schemas([whole, parquet.schema_arrow])
    whole = whole.with_metadata(schema.metadata)
    half = target.with_suffix(".tmp")
    with pq.ParquetWriter(half, whole, **_FORMAT) as writer:
        gathered: list[pa.Table] = []
        for table in read_batches(parts) if files else []:
            gathered.append(table)
            if sum(map(len, gathered)) >= ROW_GROUP:
                writer.write_table(_join(gathered, whole))
                gathered = []
        if gathered:
            writer.write_table(_join(gathered, whole))
    half.replace(target)


def _join(tables: list[pa.Table], schema: pa.Schema) -> pa.Table:
    empty = schema.empty_table()
    joined = pa.concat_tables([empty, *tables], promote_options="default")
    return joined.select(schema.names).cast(schema).combine_chunks()


def _write_whole(table: pa.Table, path: Path) -> None:
    half = path.with_suffix(".tmp")
    pq.write_table(table, half, **_PART)
    half.replace(path)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # Arrow's own text holds the system's twice.
        why = os.strerror(error.errno) if error.errno else first_line(error)
        raise RecordsUnwritten(
            f"{path}: cannot be written ({why}); LAYERSCOPE_RECORDS names another folder for "
            "records"
        ) from error


def _only_child(folder: Path) -> bool:
    return len(list(folder.parent.iterdir())) == 1
