"""Requests that are not taken, kept in a file so that they hold up nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracking.spool import Spool

__all__ = ["REFUSED", "RETURNED", "Request", "SetAside"]

REFUSED = "refused.jsonl"
"""What MLflow will never take."""
RETURNED = "returned.jsonl"
"""What came back on the way to MLflow, and may be taken later."""

NAMED = {"params", "tags", "metrics"}


@dataclass(frozen=True)
class Request:
    """One request to MLflow: items of one kind, as they stand in the spool."""

    kind: str
    """params, tags, dataset, metrics, artifact, image, damaged or finish."""
    items: Sequence[Any]

    def by_name(self) -> list[Request]:
        """A request for each name in it; empty where there is only one."""
        if self.kind not in NAMED:
            return []
        names: dict[str, list[Any]] = {}
        for item in self.items:
            names.setdefault(item[0], []).append(item)
        return [Request(self.kind, items) for items in names.values()] if len(names) > 1 else []

    @property
    def name(self) -> str:
        """Of the first item: a metric's, a file's."""
        return str(self.items[0][0] if self.kind in NAMED else self.items[0])


class SetAside:
    """A file of requests with the reason for each: a line of JSON with ``reason`` and the kind."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reasons: dict[tuple[str, str], str] = {}

    def add(self, request: Request, why: str) -> None:
        """Keep a request. Raises OSError: the disk does not take it."""
        line = json.dumps({"reason": why, request.kind: request.items})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
        self._reasons[request.kind, request.name] = why

    def __str__(self) -> str:
        """``2 records, the first: metrics 'a#b' (why)``, or nothing where none was added here."""
        if not self._reasons:
            return ""
        (kind, name), why = next(iter(self._reasons.items()))
        return f"{len(self._reasons)} records, the first: {kind} {name!r} ({why})"

    def queue_again(self, spool: Spool) -> None:
        """Have what the file keeps, also from earlier processes, sent once more.

        Raises RecordsUnwritten: the disk does not take it; the file still keeps it then.
        """
        if not self.path.exists():
            return
        finished = spool.finished
        for line in self.path.read_text(encoding="utf-8").splitlines():
            spool.append(_entry(line))
        if finished:  # and it still is
            spool.append({"closed": True})
        self.path.unlink()


def _entry(line: str) -> dict[str, Any]:
    try:
        kept = json.loads(line)
    except ValueError:  # whoever wrote it was killed
        return {"damaged": line}
    return {kind: _as_given(kind, items) for kind, items in kept.items() if kind != "reason"}


def _as_given(kind: str, items: list[Any]) -> Any:
    """A request's items as the entry had them that they came from."""
    if kind in {"params", "tags"}:
        return dict(items)
    return items[0] if kind in {"dataset", "damaged"} else items
