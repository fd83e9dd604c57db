"""Reading track files: both layouts, and every way in which a row can be wrong."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ConfigurationError
from tests.support.track_rows import KAGGLE_HEADER, KAGGLE_ROW, SONGS_HEADER, SONGS_ROW, csv_text
from training.csv_rows import CsvFile, RowProblem
from training.track_files import FEATURE_BOUNDS, LAYOUTS, Track, TrackLayout


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tracks.csv"


def layout_of(path: Path) -> TrackLayout:
    return CsvFile(path).layout_among(LAYOUTS)


def read(path: Path, content: str | bytes) -> list[Track | RowProblem]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(CsvFile(path).rows(layout_of(path).track))


def songs(*rows: Mapping[str, str]) -> str:
    return csv_text(SONGS_HEADER, [{**SONGS_ROW, **row} for row in rows])


def only_track(rows: Sequence[Track | RowProblem]) -> Track:
    (row,) = rows
    assert isinstance(row, Track)
    return row


def only_problem(rows: Sequence[Track | RowProblem]) -> RowProblem:
    (row,) = rows
    assert isinstance(row, RowProblem)
    return row


def test_a_row_of_spotify_songs_is_read(path: Path) -> None:
    track = only_track(read(path, songs({})))
    assert (track.track_id, track.title, track.artists, track.genre) == ("t1", "Dawn", ("Yoon",), "pop")
    assert track.features.keys() == FEATURE_BOUNDS.keys()
    assert (track.features["loudness"], track.popularity) == (-5.5, 66)


def test_a_row_of_the_kaggle_layout_is_read(path: Path) -> None:
    track = only_track(read(path, csv_text(KAGGLE_HEADER, [KAGGLE_ROW])))
    assert (track.track_id, track.artists, track.genre) == ("5SuO", ("Gen Hoshino", "Guest"), "acoustic")
    assert "key" not in track.features


def test_the_layout_names_the_source(path: Path) -> None:
    path.write_text(csv_text(KAGGLE_HEADER, []), encoding="utf-8")
    assert layout_of(path).source == "spotify_tracks"
    path.write_text(csv_text(SONGS_HEADER, []), encoding="utf-8")
    assert layout_of(path).source == "spotify_songs"


def test_columns_may_stand_in_any_order_among_others(path: Path) -> None:
    header = ["more", *reversed(SONGS_HEADER)]
    assert only_track(read(path, csv_text(header, [{**SONGS_ROW, "more": "x"}]))).title == "Dawn"


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_and_either_line_end_are_understood(path: Path, mark: bytes, newline: str) -> None:
    content = mark + songs({"track_name": "봄날"}).replace("\n", newline).encode()
    assert only_track(read(path, content)).title == "봄날"


def test_a_header_that_is_no_layout_is_refused_naming_what_is_missing(path: Path) -> None:
    path.write_text("track_name,artist_name,genre,track_id\n", encoding="utf-8")
    missing = ", ".join(["popularity", *FEATURE_BOUNDS])
    with pytest.raises(ConfigurationError, match=rf"^tracks\.csv has not the columns {missing}$"):
        layout_of(path)


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\n\n"])
def test_an_empty_file_is_said_to_be_empty_with_the_columns_that_it_must_have(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    needed = ", ".join(LAYOUTS[0].needed)
    with pytest.raises(ConfigurationError, match=rf"^tracks\.csv is empty; it must have the columns {needed}$"):
        layout_of(path)


def test_a_header_that_is_no_csv_is_said_with_its_line(path: Path) -> None:
    path.write_text('"' + "\n" * 60, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"^tracks\.csv, line 1: is no CSV: a quote is not closed$"):
        layout_of(path)


def test_the_nearest_layout_is_the_one_that_is_asked_for(path: Path) -> None:
    path.write_text(",".join(name for name in KAGGLE_HEADER if name != "tempo"), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"^tracks\.csv has not the column tempo$"):
        layout_of(path)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\x00\xff\xfe", b'"'])
def test_a_file_that_is_no_table_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigurationError):
        layout_of(path)


def test_a_file_that_is_not_there_is_refused_naming_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.csv: No such file"):
        layout_of(tmp_path / "absent.csv")
    with pytest.raises(ConfigurationError, match="directory"):
        layout_of(tmp_path)


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"track_name": "  "}, "track_name is empty"),
        ({"track_id": ""}, "track_id is empty"),
        ({"track_id": "x" * 192}, f"track_id is longer than 191 characters: '{'x' * 40}...'"),
        ({"energy": "loud"}, "energy is not a number: 'loud'"),
        ({"duration_ms": "-1"}, "duration_ms is not from 1 to 8.64e+07: -1"),
        ({"duration_ms": "200_000"}, "duration_ms is not a number: '200_000'"),
        ({"popularity": "9" * 500}, f"popularity is not from 0 to 100: {'9' * 40}"),
        ({"track_name": "x" * 140_000}, "is no CSV: field larger than field limit (131072)"),
        ({"energy": "1.01"}, "energy is not from 0 to 1: 1.01"),
        ({"valence": "-0.1"}, "valence is not from 0 to 1: -0.1"),
        ({"tempo": "nan"}, "tempo is not from 0 to 400: nan"),
        ({"loudness": "-inf"}, "loudness is not from -100 to 10: -inf"),
        ({"duration_ms": "0"}, "duration_ms is not from 1 to 8.64e+07: 0"),
        ({"popularity": "101"}, "popularity is not from 0 to 100: 101"),
        ({"artist_name": "a\0b"}, "artist_name holds a NUL character: 'a\\x00b'"),
    ],
)
def test_a_bad_row_is_said_with_its_line_and_reason(path: Path, cells: Mapping[str, str], reason: str) -> None:
    rows = read(path, songs({}, cells, {"track_id": "t3"}))
    assert rows[1] == RowProblem(3, reason)
    assert [row.track_id for row in rows if isinstance(row, Track)] == ["t1", "t3"]


@pytest.mark.parametrize(("line", "n"), [("a,b,c", 3), (",".join("x" * 16), 16)])
def test_a_row_of_another_number_of_cells_is_bad(path: Path, line: str, n: int) -> None:
    assert str(only_problem(read(path, songs() + line + "\n"))) == f"line 2: has {n} cells, the header has 15"


def test_a_row_that_is_no_utf_8_is_bad_and_alone_so(path: Path) -> None:
    content = songs({"track_name": "Caf@"}, {"track_id": "t2"}).encode().replace(b"@", b"\xe9")
    first, second = read(path, content)
    assert first == RowProblem(2, "track_name is not UTF-8: 'Caf\\udce9'")
    assert isinstance(second, Track)


def test_a_title_may_hold_commas_quotes_and_line_breaks(path: Path) -> None:
    rows = read(path, songs({"track_name": 'Say "yes",\nthen go'}, {"track_id": "t2", "energy": "x"}))
    assert isinstance(rows[0], Track)
    assert rows[0].title == 'Say "yes",\nthen go'
    assert rows[1] == RowProblem(4, "energy is not a number: 'x'")


@pytest.mark.parametrize("n_rows", [3, 400])
def test_a_quote_that_is_not_closed_costs_one_row(path: Path, n_rows: int) -> None:
    good = [{"track_id": f"t{number}"} for number in range(n_rows)]
    lines = songs(*good).splitlines(keepends=True)
    rows = read(path, "".join([*lines[:2], '"broken,' + lines[1], *lines[2:]]))
    problems = [row for row in rows if isinstance(row, RowProblem)]
    assert [problem.line for problem in problems] == [3]
    assert [row.track_id for row in rows if isinstance(row, Track)] == [row["track_id"] for row in good]


def test_blank_lines_are_no_rows_but_are_counted_as_lines(path: Path) -> None:
    header, row = songs({"energy": "x"}).splitlines()
    assert only_problem(read(path, f"{header}\n\n\n{row}\n\n")).line == 4


def test_empty_cells_are_unknown_not_wrong(path: Path) -> None:
    track = only_track(read(path, songs({"artist_name": "", "genre": " ", "tempo": "", "popularity": ""})))
    assert (track.artists, track.genre, track.popularity) == ((), None, None)
    assert "tempo" not in track.features


def test_artists_are_separated_by_semicolons_and_named_once(path: Path) -> None:
    assert only_track(read(path, songs({"artist_name": "A; B;;A, C"}))).artists == ("A", "B", "A, C")


@given(st.binary(max_size=200))
def test_no_bytes_after_the_header_stop_the_reading(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "tracks.csv"
    last = songs({"track_id": "last"}).splitlines()[1].encode()
    rows = read(path, songs().encode() + content + b"\n" + last + b"\n")
    assert isinstance(rows[-1], Track)
    assert rows[-1].track_id == "last"
