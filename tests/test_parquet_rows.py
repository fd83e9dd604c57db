"""Parquet files beside CSV ones: the same rows, whatever their types, and never all of a file at once."""

import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from core.errors import ConfigurationError
from tests.support.worker_process import ROOT
from training.csv_rows import RowProblem, number_in
from training.parquet_rows import ParquetFile
from training.row_files import open_rows

pyarrow: Any = pytest.importorskip("pyarrow")
parquet: Any = pytest.importorskip("pyarrow.parquet")


class Columns:
    """A layout that needs just these columns."""

    source = "test"

    def __init__(self, *needed: str) -> None:
        self.needed = needed


def written(path: Path, **columns: object) -> ParquetFile:
    parquet.write_table(pyarrow.table(columns), path)
    return ParquetFile(path)


def rows(file: ParquetFile, *names: str) -> list[Mapping[str, str] | RowProblem]:
    file.layout_among([Columns(*names)])
    return list(file.rows(dict))


@pytest.mark.parametrize(
    ("values", "kind", "texts"),
    [
        (["Dynamite", " 항구 ", None], None, ["Dynamite", "항구", ""]),
        ([1, 2**62, None], "int64", ["1", "4611686018427387904", ""]),
        ([12.0, 0.1, float("nan")], "float64", ["12", "0.1", ""]),
        ([0.1, None, 1e-3], "float32", ["0.1", "", "0.001"]),
        ([True, False, None], None, ["true", "false", ""]),
        ([Decimal("9.50"), None, Decimal(1)], None, ["9.50", "", "1.00"]),
        ([["rock", "pop"], [], None], None, ["rock,pop", "", ""]),
        ([[1, 2], [3], None], None, ["1,2", "3", ""]),
        ([b"old", b"", None], None, ["old", "", ""]),
    ],
)
def test_cells_are_the_text_that_a_csv_file_would_have(
    tmp_path: Path, values: list[object], kind: str | None, texts: list[str]
) -> None:
    column = pyarrow.array(values, type=getattr(pyarrow, kind)() if kind else None)
    file = written(tmp_path / "a.parquet", cell=column)
    assert rows(file, "cell") == [{"cell": text} for text in texts]


def test_instants_are_those_that_a_mapping_reads(tmp_path: Path) -> None:
    at = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
    for unit in ("s", "us", "ns"):
        column = pyarrow.array([at], type=pyarrow.timestamp(unit, tz="UTC"))
        [row] = rows(written(tmp_path / f"{unit}.parquet", at=column), "at")
        assert isinstance(row, Mapping)
        assert datetime.fromisoformat(row["at"]) == at


def test_words_that_are_kept_once_read_as_any(tmp_path: Path) -> None:
    file = written(tmp_path / "a.parquet", genre=pyarrow.array(["rock", "pop", "rock"]).dictionary_encode())
    assert [row["genre"] for row in rows(file, "genre") if isinstance(row, Mapping)] == ["rock", "pop", "rock"]


def test_only_the_columns_of_the_layout_are_read(tmp_path: Path) -> None:
    nested = pyarrow.array([{"a": 1}])
    assert rows(written(tmp_path / "a.parquet", id=["1"], nested=nested, more=["x"]), "id") == [{"id": "1"}]


def test_a_bad_row_is_told_by_its_number_and_stops_no_other(tmp_path: Path) -> None:
    file = written(tmp_path / "a.parquet", n=["1", "many", "3", "4"])
    file.layout_among([Columns("n")])
    found = list(file.rows(lambda cells: number_in("n", cells["n"], (0, 3))))
    assert found[0] == 1.0
    assert found[2] == 3.0
    assert [str(row) for row in found if isinstance(row, RowProblem)] == [
        "row 2: n is not a number: 'many'",
        "row 4: n is not from 0 to 3: 4",
    ]


def test_bytes_that_are_no_text_cost_their_row_alone(tmp_path: Path) -> None:
    file = written(tmp_path / "a.parquet", title=[b"good", b"\xff\xfe"])
    good, bad = rows(file, "title")
    assert good == {"title": "good"}
    assert str(bad).startswith("row 2: title is not UTF-8")


def test_a_column_that_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"a\.parquet: the column nested holds struct<a: int64>, which is no"):
        rows(written(tmp_path / "a.parquet", nested=pyarrow.array([{"a": 1}])), "nested")


def test_a_missing_column_is_named_as_of_a_csv_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"a\.parquet has not the columns title, artist"):
        rows(written(tmp_path / "a.parquet", id=["1"]), "id", "title", "artist")


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"id,title\n1,One\n")
    with pytest.raises(ConfigurationError, match=r"a\.parquet cannot be read as Parquet"):
        ParquetFile(path)


def test_a_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    written(path, id=[str(number) for number in range(10_000)])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigurationError, match="cannot be read as Parquet"):
        ParquetFile(path)


def test_a_file_that_is_spoilt_in_the_middle_ends_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"id": [str(number) for number in range(10_000)]}), path, compression="snappy")
    content = bytearray(path.read_bytes())
    content[10:4000] = b"\xff" * 3990
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="cannot be read as Parquet"):
        rows(ParquetFile(path), "id")


def test_the_ending_of_its_name_says_what_a_file_is(tmp_path: Path) -> None:
    written(tmp_path / "a.PARQUET", id=["1"])
    assert isinstance(open_rows(tmp_path / "a.PARQUET"), ParquetFile)
    (tmp_path / "a.csv").write_text("id\n1\n")
    assert not isinstance(open_rows(tmp_path / "a.csv"), ParquetFile)


PEAK = """
import sys
from pathlib import Path
import pyarrow
from training.parquet_rows import ParquetFile

class Columns:
    source, needed = "test", ("id", "title")

file = ParquetFile(Path(sys.argv[1]))
file.layout_among([Columns()])
print(sum(1 for _ in file.rows(len)), pyarrow.default_memory_pool().max_memory())
"""


def test_memory_holds_a_part_of_a_file(tmp_path: Path) -> None:
    path, n_rows = tmp_path / "a.parquet", 200_000
    titles = [f"a title that differs from every other one, {number}" for number in range(n_rows)]
    table = pyarrow.table({"id": range(n_rows), "title": titles, "lyrics": titles})
    parquet.write_table(table, path, compression="none", use_dictionary=False)
    told = subprocess.check_output([sys.executable, "-c", PEAK, str(path)], cwd=ROOT, text=True).split()
    n_read, peak_bytes = map(int, told)
    assert n_read == n_rows
    assert peak_bytes < path.stat().st_size / 4


def test_without_pyarrow_a_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "a.parquet", id=["1"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigurationError, match=r"pyarrow is missing: pip install -r requirements-import\.txt"):
        ParquetFile(tmp_path / "a.parquet")
