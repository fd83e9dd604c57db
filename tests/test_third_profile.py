"""A third domain, made up here: one declarative file, and no Python."""

import time
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

import orjson
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from config.settings import Settings
from core.submission import submit
from models.job import Job, JobStatus
from services.database import sync_engine
from tests.support.command import run_here
from tests.support.waiting import until
from workers.runtime.consuming import prepare, running_consumers
from workers.runtime.parts import open_parts

BOOKS = """
name = "books"
id_field = "book_id"
group_fields = ["title", "author", "pages"]
candidate_fields = ["title", "author", "shelf", "pages", "in_print"]

[item]
table = "book"
id = "book_id"
titles = { en = "title", ko = "title_ko" }
creator = "author"
genre = "shelf"
mood = "tone"
text = ["blurb"]
types = { pages = "integer", in_print = "flag", blurb = "long text", price = "number" }

[likes]
table = "loan"
member = "reader"
item = "book"
created_at = "lent_at"

[lists]
table = "wish_entry"
parent = "wish_list"
key = "list_id"
member = "reader"
item = "book"

[result]
items = "books"
favorites = "favorite_book_ids"
creators = "favorite_authors"
creator = "author"

[words.en]
item = "book"
items = "books"
creator = "author"

[words.ko]
item = "책"
items = "책"
creator = "작가"

[[item_files]]
source = "library"
id = "isbn"
titles = { en = "name", ko = "name_ko" }
creator = "written_by"
genre = "shelves"
separator = "|"
mood = "tone"
features = { difficulty = [0, 10] }
popularity = { column = "stars", range = [1, 5] }
columns = { pages = "n_pages", in_print = "available", blurb = "text", price = "eur" }

[[like_files]]
source = "library"
member = "reader_no"
item = "isbn"
liked_at = "when"
"""

SHELVES = ("crime|thriller", "poetry", "travel", "science|nature")
AUTHORS = ("Ada North", "Ben West", "Cleo South", "Dan East")


def library(path: Path) -> Path:
    header = "isbn,name,name_ko,written_by,shelves,tone,difficulty,stars,n_pages,available,text,eur"
    rows = [
        f"978-{n:04},Volume {n},{f'책 {n}' if n % 2 else ''},{AUTHORS[n % 4]},{SHELVES[n % 4]},grave,"
        f'{n % 10},{1 + n % 5},{100 + n},{"yes" if n % 3 else "no"},"On harbours, and\nships {n}",{n}.50'
        for n in range(60)
    ]
    bad = ["978-9999,No Number,,A,poetry,,eleven,3,1,yes,,1", "978-9998,Perhaps,,A,poetry,,1,3,1,perhaps,,1"]
    path.write_text("\n".join([header, *rows, *bad]), encoding="utf-8-sig")
    return path


def loans(path: Path) -> Path:
    rows = [
        f"{reader},978-{(reader % 4) + 4 * n:04},2026-03-0{1 + n}T10:00:00+09:00"
        for reader in (1, 2, 3)
        for n in range(4)
    ]
    path.write_text("\n".join(["reader_no,isbn,when", *rows, "1,978-7777,", "x,978-0001,"]), encoding="utf-8")
    return path


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    profile = tmp_path / "books.toml"
    profile.write_text(BOOKS, encoding="utf-8")
    return {
        "CATALOGUE_PROFILE": str(profile),
        "DATABASE_URL": f"sqlite:///{tmp_path / 'books.db'}",
        "LOG_LEVEL": "ERROR",
    }


async def filled(environment: Mapping[str, str], directory: Path) -> list[str]:
    """What the commands that fill a catalogue print."""
    files = str(library(directory / "library.csv")), str(loans(directory / "loans.csv"))
    told = []
    for command in (("migrate",), ("ingest", *files), ("embed",)):
        outcome = await run_here(*command, environment=environment)
        assert outcome.code == 0, outcome.err
        told.append(outcome.out + outcome.err)
    return told


async def test_a_file_of_its_own_layout_fills_tables_of_its_own(environment: dict[str, str], tmp_path: Path) -> None:
    _, ingested, embedded = await filled(environment, tmp_path)
    assert "62 rows: 60 books new, 0 changed, 0 as they were; 2 rows left out" in ingested
    assert "difficulty is not a number: 'eleven'" in ingested
    assert "available is neither true nor false: 'perhaps'" in ingested
    assert "14 rows: 12 likes new, 0 changed, 0 as they were; 2 rows left out" in ingested
    assert "line 14: isbn '978-7777' is no item of library" in ingested
    assert "line 15: reader_no is not a whole number: 'x'" in ingested
    assert "60 items: 60 embedded" in embedded
    engine = sync_engine(environment["DATABASE_URL"])
    with engine.connect() as connection:
        row = connection.execute(sa.text("SELECT * FROM book WHERE title = 'Volume 1'")).one()
        lent = connection.execute(sa.text("SELECT * FROM loan WHERE reader = 1 ORDER BY lent_at")).all()
        assert {"wish_entry", "wish_list"} <= set(sa.inspect(connection).get_table_names())
    engine.dispose()
    assert (row.title_ko, row.author, row.shelf, row.tone) == ("책 1", "Ben West", "poetry", "grave")
    assert (row.pages, row.in_print, row.price, row.blurb) == (101, 1, 1.5, "On harbours, and\nships 1")
    assert [str(each.lent_at)[:19] for each in lent] == [f"2026-03-0{day} 01:00:00" for day in (1, 2, 3, 4)]


@pytest.mark.parametrize(("locale", "reason"), [("en", "More from Ben West"), ("ko", "Ben West의 책")])
async def test_a_job_of_books_ends_with_books(
    environment: dict[str, str], tmp_path: Path, locale: str, reason: str
) -> None:
    await filled(environment, tmp_path)
    settings = Settings(
        catalogue_profile=environment["CATALOGUE_PROFILE"],
        database_url=SecretStr(environment["DATABASE_URL"]),
        broker_url=SecretStr("memory://"),
        redis_url=SecretStr("memory://"),
    )
    job = Job(
        job_id=str(uuid4()), member_id=1, locale=locale, top_k=20, source="manual", requested_at_ns=time.time_ns()
    )
    async with open_parts(settings) as parts:
        await prepare(parts)
        async with running_consumers(parts):
            await submit(job, results=parts.results, publisher=parts.publisher)

            async def ended() -> bool:
                view = await parts.results.job(job.job_id)
                return view is not None and view.status is JobStatus.SUCCEEDED

            await until(ended)
            view, cached = await parts.results.job(job.job_id), await parts.results.cached_view(1)
    assert view is not None
    assert view.result is not None
    assert cached is not None
    result = orjson.loads(view.result)
    shown = [book for group in result["groups"] for book in group["books"]]
    assert {"title", "author", "pages", "book_id", "reason"} <= shown[0].keys()
    liked = set(orjson.loads(cached)["favorite_book_ids"])
    assert len(liked) == 4
    assert not liked & {book["book_id"] for book in [*shown, *result["candidates"]]}
    assert result["preference"]["favorite_authors"] == ["Ben West"]
    assert {row["recommendation_type"] for row in result["candidates"]} >= {"author"}
    assert "author:Ben West" in {told for row in result["candidates"] for told in row["matched_criteria"]}
    assert any(reason in row["reason"] for row in result["candidates"])
    assert "song" not in view.result.decode().lower()
