"""Rows of declared files: what becomes of good cells, and every way in which one can be bad."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.source_files import ItemFile, LikeFile
from models.source import SourceItem, SourceLike
from training.csv_rows import CsvFile, InvalidRow, RowProblem
from training.item_files import ItemLayout, LikeLayout, fitting, shortened

BOOKS = ItemFile.model_validate(
    {
        "source": "library",
        "id": "isbn",
        "titles": {"en": "name", "ko": "name_ko"},
        "creator": "by",
        "creator_local": "by_ko",
        "genre": "shelves",
        "separator": "|",
        "mood": "tone",
        "language": "lang",
        "features": {"pages": [1, 5000]},
        "popularity": {"column": "stars", "range": [1, 5]},
        "columns": {"n": "pages", "price": "eur", "kept": "kept", "text": "blurb", "note": "note"},
    }
)
LAYOUT = ItemLayout(BOOKS, {"n": "integer", "price": "number", "kept": "flag", "text": "long text"})
ROW = {
    "isbn": "978-1",
    "name": "Harbours",
    "name_ko": "항구",
    "by": "Le Guin, U.",
    "by_ko": "르 귄",
    "shelves": "travel| sea |travel",
    "tone": "calm|grave",
    "lang": "en",
    "pages": "120",
    "stars": "4",
    "eur": "9.50",
    "kept": "Yes",
    "blurb": "b" * 300,
    "note": "n" * 300,
}


def item(**cells: str) -> SourceItem:
    return LAYOUT.item({**ROW, **cells})


def test_a_row_becomes_an_item() -> None:
    assert item() == SourceItem(
        source_id="978-1",
        titles={"en": "Harbours", "ko": "항구"},
        creator="Le Guin, U.",
        creator_local="르 귄",
        genres=("travel", "sea"),
        mood="calm, grave",
        language="en",
        features={"pages": 120},
        popularity=0.75,
        columns={"n": 120, "price": 9.5, "kept": True, "text": "b" * 300, "note": "n" * 254 + "…"},
    )


def test_empty_cells_are_unknown_not_wrong() -> None:
    found = item(**{name: "" for name in ROW if name not in ("isbn", "name_ko")})
    assert found == SourceItem(source_id="978-1", titles={"ko": "항구"}, columns=dict.fromkeys(BOOKS.columns))


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"isbn": ""}, "isbn is empty"),
        ({"isbn": "x" * 192}, "isbn is longer than 191 characters"),
        ({"name": "", "name_ko": ""}, "name is empty"),
        ({"pages": "0"}, "pages is not from 1 to 5000: 0"),
        ({"pages": "1.5"}, "pages is not a whole number: '1.5'"),
        ({"stars": "5.1"}, "stars is not from 1 to 5: 5.1"),
        ({"eur": "dear"}, "eur is not a number: 'dear'"),
        ({"eur": "inf"}, "eur is not from "),
        ({"kept": "perhaps"}, "kept is neither true nor false: 'perhaps'"),
    ],
)
def test_a_bad_cell_is_said(cells: dict[str, str], reason: str) -> None:
    with pytest.raises(InvalidRow) as raised:
        item(**cells)
    assert str(raised.value).startswith(reason)


@pytest.mark.parametrize(
    ("cell", "item_id"), [("7", 7), ("0", None), ("-3", None), ("7.0", None), (str(2**63), None), ("٣", None)]
)
def test_ids_that_are_kept_are_whole_numbers_above_nothing(cell: str, item_id: int | None) -> None:
    layout = ItemLayout(BOOKS.model_copy(update={"keeps_ids": True}), LAYOUT.types)
    if item_id is None:
        with pytest.raises(InvalidRow, match="isbn is not "):
            layout.item({**ROW, "isbn": cell})
    else:
        assert layout.item({**ROW, "isbn": cell}).item_id == item_id


@pytest.mark.parametrize(
    ("cell", "liked_at"),
    [
        ("", None),
        ("2026-03-01", datetime(2026, 3, 1)),  # noqa: DTZ001 - as databases hold them
        ("2026-03-01T10:00:00+09:00", datetime(2026, 3, 1, 1)),  # noqa: DTZ001
        ("2026-03-01T10:00:00Z", datetime(2026, 3, 1, 10)),  # noqa: DTZ001
        ("20260301", datetime(2026, 3, 1)),  # noqa: DTZ001
        ("1772326800", datetime(2026, 3, 1, 1)),  # noqa: DTZ001
        ("1772326800.5", datetime(2026, 3, 1, 1, 0, 0, 500_000)),  # noqa: DTZ001
    ],
)
def test_likes_have_instants_in_utc(cell: str, liked_at: datetime | None) -> None:
    layout = LikeLayout(LikeFile(source="library", member="who", item="isbn", liked_at="when"))
    found = layout.like({"who": "-5", "isbn": "978-1", "when": cell})
    assert found == SourceLike(member_id=-5, source_id="978-1", liked_at=liked_at)


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"who": "me"}, "who is not a whole number: 'me'"),
        ({"who": "9" * 19}, "who is not a whole number"),
        ({"isbn": ""}, "isbn is empty"),
        ({"when": "yesterday"}, "when is no instant: 'yesterday'"),
        ({"when": "999999999999"}, "when is no instant"),
        ({"when": "nan"}, "when is no instant: 'nan'"),
    ],
)
def test_a_bad_like_is_said(cells: Mapping[str, str], reason: str) -> None:
    layout = LikeLayout(LikeFile(source="library", member="who", item="isbn", liked_at="when"))
    with pytest.raises(InvalidRow, match=reason):
        layout.like({"who": "1", "isbn": "978-1", "when": "", **cells})


@given(st.text(max_size=600))
def test_short_texts_fit_their_columns_and_keep_what_fits(text: str) -> None:
    found = shortened(text)
    assert len(found) <= 255
    assert found == text if len(text) <= 255 else text.startswith(found[:-1])


@given(st.lists(st.text(min_size=1, max_size=300), max_size=20))
def test_genres_fit_one_column_each_once_and_again_the_same(names: list[str]) -> None:
    found = fitting(names)
    assert len(", ".join(found)) <= 255
    assert len(set(found)) == len(found)
    assert fitting(found) == found
    assert not any("," in name for name in found)


@given(st.binary(max_size=200))
def test_no_bytes_after_the_header_stop_the_reading(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "books.csv"
    header = ",".join(ROW).encode()
    last = ",".join(f'"{cell}"' for cell in {**ROW, "isbn": "last"}.values()).encode()
    path.write_bytes(b"\n".join([header, content, last, b""]))
    file = CsvFile(path)
    rows: list[Any] = list(file.rows(file.layout_among([LAYOUT]).item))
    assert all(isinstance(row, SourceItem | RowProblem) for row in rows)
    if b'"' not in content:  # an open quote goes on into the next line, as RFC 4180 has it
        assert rows[-1].source_id == "last"
