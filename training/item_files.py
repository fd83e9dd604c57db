"""Rows of files of items, and of who likes them, as a catalogue profile declares their columns."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from config.catalogue_profile import CatalogueProfile, ColumnType
from config.source_files import ItemFile, LikeFile
from models.catalogue import Scalar
from models.source import SourceItem, SourceLike
from training.csv_rows import InvalidRow, identifier, integer, number_in, required

MAX_TEXT_CHARS = 255
"""Of a column of short text."""

_MAX_LONG_TEXT_CHARS = 16_000
_LARGEST = 1e300
_SECONDS = re.compile(r"[0-9]{9,12}(\.[0-9]+)?")
_FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True, slots=True)
class ItemLayout:
    """Files of items as a profile has them; ``types`` are those of the table's columns."""

    file: ItemFile
    types: Mapping[str, ColumnType]

    @property
    def source(self) -> str:
        """The name that the items are known under."""
        return self.file.source

    @property
    def needed(self) -> tuple[str, ...]:
        """Every column that is read."""
        return self.file.needed

    def item(self, cells: Mapping[str, str]) -> SourceItem:
        """The item of a row, with the genres and moods of that row alone; raises ``InvalidRow``."""
        file = self.file
        source_id = identifier(file.id, cells[file.id])
        titles = {locale: shortened(cells[name]) for locale, name in file.titles.items() if cells[name]}
        if not titles:
            required(next(iter(file.titles.values())), "")
        return SourceItem(
            source_id=source_id,
            item_id=_positive(file.id, cells[file.id]) if file.keeps_ids else None,
            titles=titles,
            creator=_text(cells, file.creator),
            creator_local=_text(cells, file.creator_local),
            genres=fitting(self._several(cells, file.genre)),
            mood=", ".join(fitting(self._several(cells, file.mood))) or None,
            language=_text(cells, file.language),
            features=dict(self._features(cells)),
            popularity=self._popularity(cells),
            columns={column: self._column(column, name, cells[name]) for column, name in file.columns.items()},
        )

    def _several(self, cells: Mapping[str, str], name: str | None) -> list[str]:
        return [part for raw in cells[name].split(self.file.separator) if (part := raw.strip())] if name else []

    def _features(self, cells: Mapping[str, str]) -> Iterator[tuple[str, float]]:
        for name, bounds in self.file.features.items():
            if (number := number_in(name, cells[name], bounds)) is not None:
                yield name, number

    def _popularity(self, cells: Mapping[str, str]) -> float | None:
        if (given := self.file.popularity) is None:
            return None
        low, high = given.range
        number = number_in(given.column, cells[given.column], given.range)
        return None if number is None else round((number - low) / (high - low), 4)

    def _column(self, column: str, name: str, cell: str) -> Scalar:
        """A cell as the table's column has it."""
        if not cell:
            return None
        match self.types.get(column, "text"):
            case "integer":
                return integer(name, cell)
            case "number":
                return number_in(name, cell, (-_LARGEST, _LARGEST))
            case "flag":
                return _flag(name, cell)
            case "long text":
                return cell[:_MAX_LONG_TEXT_CHARS]
        return shortened(cell)


@dataclass(frozen=True, slots=True)
class LikeLayout:
    """Files of likes as a profile has them."""

    file: LikeFile

    @property
    def source(self) -> str:
        """Whose ids the items have."""
        return self.file.source

    @property
    def needed(self) -> tuple[str, ...]:
        """Every column that is read."""
        return self.file.needed

    def like(self, cells: Mapping[str, str]) -> SourceLike:
        """The like of a row; raises ``InvalidRow``."""
        at, file = self.file.liked_at, self.file
        return SourceLike(
            member_id=integer(file.member, cells[file.member]),
            source_id=identifier(file.item, cells[file.item]),
            liked_at=_instant(at, cells[at]) if at and cells[at] else None,
        )


def item_layouts(profile: CatalogueProfile) -> tuple[ItemLayout, ...]:
    """Those that the profile declares."""
    return tuple(ItemLayout(file, profile.item.types) for file in profile.item_files)


def like_layouts(profile: CatalogueProfile) -> tuple[LikeLayout, ...]:
    """Those that the profile declares."""
    return tuple(map(LikeLayout, profile.like_files))


def shortened(text: str) -> str:
    """``text``, with an ellipsis where it is too long for its column."""
    return text if len(text) <= MAX_TEXT_CHARS else text[: MAX_TEXT_CHARS - 1].rstrip() + "…"


def fitting(names: Iterable[str]) -> tuple[str, ...]:
    """The names, each once, that fit into one comma-separated column; a comma within one becomes a slash."""
    kept: list[str] = []
    for name in dict.fromkeys(raw.replace(",", "/") for raw in names):
        if len(", ".join([*kept, name])) <= MAX_TEXT_CHARS:
            kept.append(name)
    return tuple(kept)


def _text(cells: Mapping[str, str], name: str | None) -> str | None:
    return shortened(cells[name]) or None if name else None


def _positive(name: str, cell: str) -> int:
    number = integer(name, cell)
    if number < 1:
        raise InvalidRow(f"{name} is not above 0: {number}")
    return number


def _flag(name: str, cell: str) -> bool:
    if (flag := _FLAGS.get(cell.casefold())) is None:
        raise InvalidRow(f"{name} is neither true nor false: {cell[:40]!r}")
    return flag


def _instant(name: str, cell: str) -> datetime:
    """An instant in UTC, without a time zone as databases have it."""
    try:
        instant = datetime.fromtimestamp(float(cell), UTC) if _SECONDS.fullmatch(cell) else datetime.fromisoformat(cell)
    except (ValueError, OverflowError, OSError):
        raise InvalidRow(f"{name} is no instant: {cell[:40]!r}") from None
    aware = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    return aware.astimezone(UTC).replace(tzinfo=None)
