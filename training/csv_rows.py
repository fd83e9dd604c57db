"""Reads CSV files with a header row by row: what is wrong with one row is said, and stops no other."""

import csv
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from core.errors import ConfigurationError

T = TypeVar("T")

_MAX_ID_CHARS = 191
_MAX_SHOWN_CHARS = 40
# A quoted cell may hold line breaks, but beyond this a quote was not closed.
_MAX_RECORD_LINES = 50
_INTEGER = re.compile("-?[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class RowProblem:
    """Why the row that begins on ``line`` (the header is line 1) was left out; of what has no lines its number."""

    line: int
    reason: str
    place: str = "line"

    def __str__(self) -> str:
        return f"{self.place} {self.line}: {self.reason}"


class Layout(Protocol):
    """One way in which files of a kind are laid out."""

    @property
    def source(self) -> str:
        """The name that ids of such files are known under."""

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns that a file must have to be of this layout."""


AnyLayout = TypeVar("AnyLayout", bound=Layout)


class CsvFile:
    """A CSV file in UTF-8, with or without a byte order mark. Reading blocks, and streams."""

    def __init__(self, path: Path) -> None:
        """Raises ``ConfigurationError`` where the file cannot be read, or its first line is no CSV."""
        self.path = path
        first = next(self._records(None), (1, []))[1]
        if isinstance(first, RowProblem):
            raise ConfigurationError(f"{path.name}, {first}")
        self.header = tuple(name.strip() for name in first)

    def layout_among(self, layouts: Sequence[AnyLayout]) -> AnyLayout:
        """The first of ``layouts``, which are some, that the file is of.

        Raises ``ConfigurationError`` naming what the nearest one needs beside what is there.
        """
        return layout_among(self.path.name, self.header, layouts)

    def rows(self, read: Callable[[Mapping[str, str]], T]) -> Iterator[T | RowProblem]:
        """What ``read`` makes of every row but the header and blank lines, in order.

        It is given trimmed cells by their columns, and raises ``InvalidRow``.
        """
        records = self._records(len(self.header))
        next(records)
        for line, cells in records:
            if isinstance(cells, RowProblem):
                yield cells
            elif cells:
                try:
                    yield read(self._named(cells))
                except InvalidRow as error:
                    yield RowProblem(line, str(error))

    def _named(self, cells: Sequence[str]) -> Mapping[str, str]:
        if len(cells) != len(self.header):
            raise InvalidRow(f"has {len(cells)} cells, the header has {len(self.header)}")
        return {name: clean(name, cell) for name, cell in zip(self.header, cells, strict=True)}

    def _records(self, n_cells: int | None) -> Iterator[tuple[int, list[str] | RowProblem]]:
        """The line that each record begins on, and its cells.

        After a record over several lines that has not ``n_cells``, reading goes on at its second line, so that a quote
        that was not closed costs one row.
        """
        try:
            # What is no UTF-8 becomes lone surrogates, for which that row alone is refused.
            with self.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
                lines = RecordLines(file)
                while (record := lines.record()) is not None:
                    yield lines.first, record
                    if isinstance(record, RowProblem) or len(record) != (n_cells or len(record)):
                        lines.go_back()
        except OSError as error:
            raise ConfigurationError(f"{self.path}: {error.strerror or error}") from error


class RecordLines:
    """Hands lines to the CSV reader, and remembers those of the record under way; ``tabs`` part unquoted cells."""

    def __init__(self, lines: Iterable[str], *, tabs: bool = False) -> None:
        self._lines = iter(lines)
        self._delimiter = "\t" if tabs else ","
        self._quoting: Literal[0, 3] = csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
        self._waiting: deque[str] = deque()
        self._taken: list[str] = []
        self.first = 1

    def record(self) -> list[str] | RowProblem | None:
        """The next record, or None at the end; ``first`` is the line that it begins on, from 1."""
        self.first += len(self._taken)
        self._taken = []
        try:
            return next(csv.reader(self, delimiter=self._delimiter, quoting=self._quoting), None)
        except csv.Error as error:
            return RowProblem(self.first, f"is no CSV: {error}")

    @property
    def n_lines(self) -> int:
        """How many lines the record took."""
        return len(self._taken)

    def go_back(self) -> None:
        """Let the next record begin on the second line of this one."""
        self._waiting.extendleft(reversed(self._taken[1:]))
        del self._taken[1:]

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if len(self._taken) == _MAX_RECORD_LINES:
            raise csv.Error("a quote is not closed")
        line = self._waiting.popleft() if self._waiting else next(self._lines)
        self._taken.append(line)
        return line


def layout_among(name: str, header: Sequence[str], layouts: Sequence[AnyLayout]) -> AnyLayout:
    """The first of ``layouts`` that a file of that name and ``header`` is of; see ``CsvFile.layout_among``."""
    missing = [[column for column in layout.needed if column not in header] for layout in layouts]
    place = min(range(len(layouts)), key=lambda place: len(missing[place]))
    if missing[place]:
        state = "has not" if any(header) else "is empty; it must have"
        raise ConfigurationError(f"{name} {state} {_columns(missing[place])}")
    return layouts[place]


def _columns(names: Sequence[str]) -> str:
    return f"the column{'s' if len(names) > 1 else ''} {', '.join(names)}"


class InvalidRow(ValueError):
    """What is wrong with one row."""


def clean(name: str, cell: str) -> str:
    """``cell`` trimmed; raises ``InvalidRow`` where a database would not take it."""
    if not cell.isascii() and any("\ud800" <= letter <= "\udfff" for letter in cell):
        raise InvalidRow(f"{name} is not UTF-8: {_shown(cell)}")
    if "\0" in cell:
        raise InvalidRow(f"{name} holds a NUL character: {_shown(cell)}")
    return cell.strip()


def required(name: str, text: str) -> str:
    """``text``, where there is any."""
    if not text:
        raise InvalidRow(f"{name} is empty")
    return text


def identifier(name: str, text: str) -> str:
    """``text`` as the id of something at its source."""
    if len(text) > _MAX_ID_CHARS:
        raise InvalidRow(f"{name} is longer than {_MAX_ID_CHARS} characters: {_shown(text)}")
    return required(name, text)


def integer(name: str, text: str) -> int:
    """``text`` as a whole number of 64 bits, in plain digits."""
    if not _INTEGER.fullmatch(required(name, text)) or not -(2**63) <= int(text) < 2**63:
        raise InvalidRow(f"{name} is not a whole number: {_shown(text)}")
    return int(text)


def number_in(name: str, text: str, bounds: tuple[float, float]) -> float | None:
    """The number, or None for an empty cell: what is not known is not wrong."""
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        raise InvalidRow(f"{name} is not a number: {_shown(text)}") from None
    if "_" in text:  # Python's own way of writing 1_000, and nobody else's
        raise InvalidRow(f"{name} is not a number: {_shown(text)}")
    low, high = bounds
    if not low <= number <= high:
        raise InvalidRow(f"{name} is not from {low:g} to {high:g}: {text[:_MAX_SHOWN_CHARS]}")
    return number


def _shown(text: str) -> str:
    return repr(text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}...")
