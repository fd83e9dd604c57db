"""A mapping file says what the columns of a file are, in place of the profile: of CSV and of Parquet alike."""

from pathlib import Path
from typing import Any

import pytest

from services.migrations import upgrade
from tests.support.catalogue import connection
from tests.support.command import Outcome, run_here

MAPPING = """
[[item_files]]
source = "karaoke"
id = "no"
titles = { ko = "song", en = "song_english" }
creator = "singer"
genre = "kinds"
separator = "/"
features = { tempo = [40, 250] }
columns = { tj_number = "tj" }

[[like_files]]
source = "karaoke"
member = "who"
item = "no"
liked_at = "at"
"""

SONGS = {
    "no": ["a1", "b2", "c3"],
    "song": ["밤편지", None, "봄날"],
    "song_english": ["Through the Night", "Lights", None],
    "singer": ["아이유", "BTS", "BTS"],
    "kinds": ["ballad/acoustic", "pop", None],
    "tempo": [74.0, 120.5, 900.0],
    "tj": [46973, None, 48081],
    "unused": [1, 2, 3],
}
LIKES = {"who": [7, 7, 8], "no": ["a1", "zz", "b2"], "at": ["2026-01-02T03:04:05Z", "", "1767323045"]}


def as_csv(path: Path, columns: dict[str, Any]) -> Path:
    rows = [list(columns), *zip(*columns.values(), strict=True)]
    path.write_text(
        "".join(",".join("" if cell is None else str(cell) for cell in row) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def as_parquet(path: Path, columns: dict[str, Any]) -> Path:
    pyarrow: Any = pytest.importorskip("pyarrow")
    parquet: Any = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table(columns), path)
    return path


WRITTEN = [pytest.param(as_csv, "csv", id="csv"), pytest.param(as_parquet, "parquet", id="parquet")]


@pytest.fixture
def site(tmp_path: Path) -> str:
    site = f"sqlite:///{tmp_path / 'site.db'}"
    upgrade(site)
    return site


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    path = tmp_path / "map.toml"
    rewrite(path, MAPPING)
    return path


def rewrite(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


async def ingest(site: str, *arguments: str | Path) -> Outcome:
    return await run_here("ingest", *map(str, arguments), environment={"DATABASE_URL": site})


def rows(site: str, query: str) -> list[tuple[Any, ...]]:
    with connection(site) as opened:
        return [tuple(row) for row in opened.exec_driver_sql(query)]


@pytest.mark.parametrize(("write", "ending"), WRITTEN)
async def test_files_of_any_layout_are_taken_as_the_mapping_says(
    write: Any, ending: str, site: str, mapping: Path, tmp_path: Path
) -> None:
    songs, likes = write(tmp_path / f"songs.{ending}", SONGS), write(tmp_path / f"likes.{ending}", LIKES)
    outcome = await ingest(site, songs, likes, "--mapping", mapping)
    assert outcome.code == 0, outcome.err
    assert "3 rows: 2 songs new, 0 changed, 0 as they were; 1 rows left out" in outcome.out
    assert "tempo is not from 40 to 250: 900" in outcome.err
    assert "3 rows: 2 likes new, 0 changed, 0 as they were; 1 rows left out" in outcome.out
    assert rows(site, "SELECT title_kr, title_en, artist, genre, tj_number FROM song ORDER BY song_id") == [
        ("밤편지", "Through the Night", "아이유", "ballad, acoustic", 46973),
        (None, "Lights", "BTS", "pop", None),
    ]
    assert [str(row[2])[:19] for row in rows(site, "SELECT member_id, song_id, created_at FROM song_like")] == [
        "2026-01-02 03:04:05"
    ] * 2


async def test_csv_and_parquet_of_the_same_rows_are_the_same(site: str, mapping: Path, tmp_path: Path) -> None:
    await ingest(site, as_csv(tmp_path / "songs.csv", SONGS), "--mapping", mapping)
    outcome = await ingest(site, as_parquet(tmp_path / "songs.parquet", SONGS), "--mapping", mapping)
    assert "3 rows: 0 songs new, 0 changed, 2 as they were" in outcome.out


async def test_a_file_of_likes_alone_may_follow_items_of_before(site: str, mapping: Path, tmp_path: Path) -> None:
    await ingest(site, as_csv(tmp_path / "songs.csv", SONGS), "--mapping", mapping)
    rewrite(mapping, "[[like_files]]" + MAPPING.partition("[[like_files]]")[2])
    outcome = await ingest(site, as_csv(tmp_path / "likes.csv", LIKES), "--mapping", mapping)
    assert (outcome.code, "2 likes new" in outcome.out) == (0, True)


async def test_layouts_of_the_profile_do_not_count_beside_a_mapping(site: str, mapping: Path, tmp_path: Path) -> None:
    few = {name: SONGS[name] for name in ("no", "song")}
    outcome = await ingest(site, as_csv(tmp_path / "songs.csv", few), "--mapping", mapping)
    assert outcome.code == 2
    assert "songs.csv has not the columns who, at" in " ".join(outcome.err.split())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "there is neither an [[item_files]] nor a [[like_files]]"),
        ("[[item_files]]\nsource = 'x'\n", "item_files.0.id"),
        ("[[item_files]]\nsource = 'x'\nid = 'no'\ntitles = { fr = 'song' }\n", "titles has 'fr', which item.titles"),
        ("[[item_files]\n", "map.toml"),
        ("[[item_files]]\nsource = 'x'\nid = 'no'\ntitles = { ko = 'song' }\nartist = 'y'\n", "item_files.0.artist"),
    ],
)
async def test_a_mapping_that_is_wrong_is_told_before_anything_is_written(
    text: str, sentence: str, site: str, mapping: Path, tmp_path: Path
) -> None:
    rewrite(mapping, text)
    outcome = await ingest(site, as_csv(tmp_path / "songs.csv", SONGS), "--mapping", mapping)
    assert outcome.code == 2
    assert sentence in outcome.err.replace("\n", " ")
    assert "song" not in {name for (name,) in rows(site, "SELECT name FROM sqlite_master WHERE type = 'table'")}
