"""Reads interactions, queries and items from files of columns with a header, whose ids are strings.

Commas or, where the first line holds any, tabs (unquoted, as in the HetRec data sets) part the columns. Names of
columns are compared without case and underscores, and some that other data sets use are taken too: ``userID``,
``artistID``. A first line of tabs and digits alone is no header: the columns are user, item, weight and
(as in MovieLens) the instant.

A bad row is left out, said with its line, and stops no other; only a file without any good row is refused.
"""

import math
from array import array
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import numpy as np
import structlog

from core.collaborative import Likes
from core.errors import ConfigurationError
from core.splits import Interactions
from models.log_event import LogEvent
from training.csv_rows import RecordLines, RowProblem

_MILLISECONDS_FROM = 1e11
_GREATEST_WEIGHT = 1e15  # a sum of these stays finite
_MAX_SHOWN_CHARS = 40
_MAX_PROBLEMS_TOLD = 3
_HEADLESS = ("user_id", "item_id", "weight", "occurred_at")
_INTERACTIONS, _ITEMS = "interactions.csv", "items.csv"
_ALIASES = {
    **dict.fromkeys(("userid", "user", "memberid", "listenerid"), "user_id"),
    **dict.fromkeys(("itemid", "item", "artistid", "songid", "trackid", "movieid", "gameid"), "item_id"),
    **dict.fromkeys(("queryid", "query"), "query_id"),
    **dict.fromkeys(("weight", "plays", "rating"), "weight"),
    **dict.fromkeys(("occurredat", "timestamp"), "occurred_at"),
}

_log = structlog.get_logger()


class _BadRow(ValueError):
    """What is wrong with one row."""


class _LeftOut(AbstractContextManager[None]):
    """Takes what is wrong with rows, one after the other, and tells it at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._problems: list[str] = []
        self._n = 0
        self.line = 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, _BadRow):
            self.add(RowProblem(self.line, str(error)))
            return True
        return False

    def add(self, problem: RowProblem) -> None:
        self._n += 1
        if len(self._problems) < _MAX_PROBLEMS_TOLD:
            self._problems.append(str(problem))

    def tell(self, *, is_empty: bool, otherwise: str = "") -> None:
        """Raises ``ConfigurationError`` where nothing is left, with the first problem or ``otherwise``."""
        if is_empty and (self._problems or otherwise):
            first = f", {self._problems[0]}" if self._problems else f": {otherwise}"
            raise ConfigurationError(f"{self._path}{first}")
        if self._n:
            _log.warning(LogEvent.ROWS_LEFT_OUT, file=self._path.name, n_rows=self._n, first=self._problems)


def dataset_files(dataset: Path, items: Path | None = None) -> tuple[Path, Path | None]:
    """The files of interactions and of items: a directory holds ``interactions.csv`` and perhaps ``items.csv``."""
    if not dataset.is_dir():
        return dataset, items
    described = dataset / _ITEMS
    return dataset / _INTERACTIONS, items or (described if described.is_file() else None)


def read_interactions(path: Path) -> Interactions:
    """``user_id,item_id[,weight][,occurred_at]``: weights add up over repeated pairs, the last instant counts.

    Weights that are not above 0 say nothing that is liked, and are left out. Raises ``ConfigurationError``.
    """
    users, items, left_out = _Names(), _Names(), _LeftOut(path)
    rows, columns, weights, times = array("q"), array("q"), array("d"), array("d")
    for row in _rows(path, ("user_id", "item_id"), left_out):
        with left_out:
            weight, user, item = _weight(row.get("weight")), _id(row, "user_id"), _id(row, "item_id")
            occurred_at = _seconds(row.get("occurred_at"))
            if weight > 0:
                rows.append(users.place(user))
                columns.append(items.place(item))
                weights.append(weight)
                times.append(occurred_at)
    left_out.tell(is_empty=not rows, otherwise="no interaction of a weight above 0")
    return _distinct(rows, columns, weights, times, users.ids, items.ids)


def _distinct(
    rows: "array[int]",
    columns: "array[int]",
    weights: "array[float]",
    times: "array[float]",
    users: list[str],
    items: list[str],
) -> Interactions:
    keys = np.frombuffer(rows, np.int64) * len(items) + np.frombuffer(columns, np.int64)
    distinct, places = np.unique(keys, return_inverse=True)
    sums = np.bincount(places, np.frombuffer(weights, np.float64)).astype(np.float64)
    latest = np.full(len(distinct), -np.inf)
    np.maximum.at(latest, places, np.frombuffer(times, np.float64))
    known = bool(np.isfinite(latest).all())
    return Interactions(distinct // len(items), distinct % len(items), sums, latest if known else None, users, items)


@dataclass(frozen=True, slots=True)
class Queries:
    """What each query likes; ``likes`` are indices of ``item_ids``, which may go on beyond those given to read it.

    Their weights are those of the file.
    """

    query_ids: Sequence[str]
    likes: Likes


def read_queries(path: Path, item_places: Mapping[str, int]) -> tuple[Queries, list[str]]:
    """``query_id,item_id[,weight]``, and the ids of items that nothing was known of, which get the next indices.

    Weights add up over repeated items. A line of a weight not above 0 (or without an item) still makes its query
    known. Raises ``ConfigurationError``.
    """
    queries, unknown, left_out = _Names(), _Names(), _LeftOut(path)
    lists: list[dict[int, float]] = []
    for row in _rows(path, ("query_id", "item_id"), left_out):
        with left_out:
            place = queries.place(_id(row, "query_id"))
            if place == len(lists):
                lists.append({})
            item, weight = row["item_id"] and _id(row, "item_id"), _weight(row.get("weight"))
            if item and weight > 0:
                known = item_places.get(item)
                index = len(item_places) + unknown.place(item) if known is None else known
                lists[place][index] = lists[place].get(index, 0.0) + weight
    left_out.tell(is_empty=not lists)
    weights = np.array([weight for row in lists for weight in row.values()], np.float32)
    return Queries(queries.ids, replace(Likes.of([list(row) for row in lists]), weights=weights)), unknown.ids


@dataclass(frozen=True, slots=True)
class ItemTable:
    """``texts`` and ``numbers`` by column, in the order of ``item_ids``; an absent number is NaN."""

    item_ids: Sequence[str]
    texts: Mapping[str, Sequence[str]]
    numbers: Mapping[str, Sequence[float]]

    def only(self, item_ids: Container[str]) -> "ItemTable":
        """The rows of these items."""
        rows = [row for row, item in enumerate(self.item_ids) if item in item_ids]
        return ItemTable(
            [self.item_ids[row] for row in rows],
            {name: [cells[row] for row in rows] for name, cells in self.texts.items()},
            {name: [numbers[row] for row in rows] for name, numbers in self.numbers.items()},
        )


def read_items(path: Path) -> ItemTable:
    """``item_id`` and any columns: one is numeric when every cell that is not empty is a number.

    Rows of the same item are one, their different texts side by side (an item may stand in a row for each genre).
    """
    rows: dict[str, dict[str, str]] = {}
    left_out = _LeftOut(path)
    for row in _rows(path, ("item_id",), left_out):
        with left_out:
            item, described = _id(row, "item_id"), {name: _in_utf8(cell) for name, cell in row.items()}
            rows[item] = _joined(rows[item], described) if item in rows else described
    left_out.tell(is_empty=not rows)
    columns = list(dict.fromkeys(name for row in rows.values() for name in row if name and name != "item_id"))
    texts: dict[str, list[str]] = {}
    numbers: dict[str, list[float]] = {}
    for name in columns:
        cells = [row.get(name, "") for row in rows.values()]
        values = [_number(cell) for cell in cells]
        if any(value is None for value in values):
            texts[name] = cells
        else:
            numbers[name] = [math.nan if value is None else value for value in values]
    return ItemTable(list(rows), texts, numbers)


class _Names:
    """Ids in the order in which they first came."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    @property
    def ids(self) -> list[str]:
        return list(self._places)

    def place(self, name: str) -> int:
        return self._places.setdefault(name, len(self._places))


def _joined(first: dict[str, str], further: dict[str, str]) -> dict[str, str]:
    return {name: _joined_cells(first.get(name, ""), further.get(name, "")) for name in {**first, **further}}


def _joined_cells(first: str, further: str) -> str:
    """A number stays the first number."""
    if not further or further == first or (first and _number(first) is not None):
        return first
    return f"{first} {further}".strip()


def _rows(path: Path, needed: Sequence[str], left_out: _LeftOut) -> Iterator[dict[str, str]]:
    """Rows by column name with stripped cells; what is no row is left out."""
    try:
        # What is no UTF-8 becomes lone surrogates, for which that row alone is refused.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            records, header = _records(file, path)
            columns = _columns(header)
            missing = [name for name in needed if name not in columns]
            if missing:
                raise ConfigurationError(
                    f"{path}, line 1: no column {', '.join(missing)}; it has {_shown_columns(header) or 'none'}"
                )
            while (cells := records.record()) is not None:
                left_out.line = records.first
                if problem := _problem_of(cells, records, len(columns)):
                    left_out.add(problem)
                    records.go_back()  # a quote that was not closed costs one row
                elif cells and not isinstance(cells, RowProblem):
                    row = {name: cell.strip() for name, cell in zip(columns, cells, strict=False)}
                    yield {**dict.fromkeys(needed, ""), **row}
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error


def _problem_of(cells: list[str] | RowProblem, records: RecordLines, n_columns: int) -> RowProblem | None:
    if isinstance(cells, RowProblem):
        return cells
    if records.n_lines > 1 and len(cells) != n_columns:
        return RowProblem(records.first, f"has {len(cells)} cells, the header has {n_columns}")
    return None


def _records(file: TextIO, path: Path) -> tuple[RecordLines, Sequence[str]]:
    """Records, and the names of their columns."""
    first = file.readline()
    file.seek(0)
    records = RecordLines(file, tabs="\t" in first)
    if "\t" in first and first.replace("\t", "").strip().isdigit():
        return records, _HEADLESS
    header = records.record() or []
    if isinstance(header, RowProblem):
        raise ConfigurationError(f"{path}, {header}")
    return records, [name.strip() for name in header]


def _shown_columns(header: Sequence[str]) -> str:
    return ", ".join(_in_utf8(name)[:_MAX_SHOWN_CHARS] for name in header[:20])


def _columns(header: Sequence[str]) -> list[str]:
    """A column's own name goes before what another one is taken for."""
    known = {"user_id", "item_id", "query_id", "weight", "occurred_at"}
    meant = [_ALIASES.get(name.lower().replace("_", ""), name) for name in header]
    taken = {name for name in header if name in known}
    return [name if name in known or alias in taken else alias for name, alias in zip(header, meant, strict=True)]


def _id(row: Mapping[str, str], column: str) -> str:
    text = row[column]
    if not text:
        raise _BadRow(f"{column} is empty, got {text!r}")
    if not text.isascii() and _in_utf8(text) != text:
        raise _BadRow(f"{column} is not UTF-8, got {_shown(text)}")
    return text


def _in_utf8(cell: str) -> str:
    """``cell`` with what was not UTF-8 replaced."""
    return cell if cell.isascii() else cell.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _shown(text: str) -> str:
    return repr(text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}...")


def _weight(cell: str | None) -> float:
    if not cell:
        return 1.0
    value = _number(cell)
    if value is None:
        raise _BadRow(f"weight is no number, got {_shown(cell)}")
    if value > _GREATEST_WEIGHT:
        raise _BadRow(f"weight is above {_GREATEST_WEIGHT:g}, got {_shown(cell)}")
    return 0.0 if math.isnan(value) else value


def _number(cell: str) -> float | None:
    """NaN where the cell is empty or not finite, None where it is no number."""
    if not cell:
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else math.nan


def _seconds(cell: str | None) -> float:
    """Unix time in seconds or milliseconds, or ISO 8601 (UTC where no zone is said); -inf where there is none."""
    if not cell:
        return -math.inf
    value = _number(cell)
    if value is not None and not math.isnan(value):
        return value / 1000 if value > _MILLISECONDS_FROM else value
    try:
        instant = datetime.fromisoformat(cell)
        return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise _BadRow(f"occurred_at is no instant, got {_shown(cell)}") from None
