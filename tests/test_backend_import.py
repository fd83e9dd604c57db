"""Another backend's items, likes and playlists become this site's; the other database is only read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from services.migrations import upgrade
from tests.support import backend_tables as backend
from tests.support.catalogue import (
    LONG_AGO,
    OnMySql,
    OnSqlite,
    add_to_playlist,
    connection,
    create_backend_tables,
    execute,
    insert_songs,
    like,
    update_song,
)
from tests.support.command import Outcome, run_here

N_SONGS = 1200


@pytest.fixture
def site(tmp_path: Path) -> str:
    site = f"sqlite:///{tmp_path / 'site.db'}"
    upgrade(site)
    return site


def fill(url: str) -> None:
    create_backend_tables(url)
    songs = [
        {
            "song_id": 5 * number,
            "title_kr": f"노래 {number}",
            "genre": "ballad,pop",
            "artist": "가수",
            "tj_number": number,
            "modified_at": LONG_AGO,
            "is_active": True,
        }
        for number in range(1, N_SONGS + 1)
    ]
    with connection(url) as opened:
        opened.execute(sa.insert(backend.song), songs)
    update_song(url, 10, is_active=False, title_en="Two", mood="calm", lang="ko", artist_kr="가수둘", title_yomi="two")
    like(url, 1, 5, 10, 15)
    like(url, 2, 5)
    add_to_playlist(url, 1, 5, 20, 25)
    add_to_playlist(url, 2, 30)


async def copy(site: str, url: str, *arguments: str) -> Outcome:
    return await run_here("import", "backend", "--from", url, *arguments, environment={"DATABASE_URL": site})


def table(url: str, query: str) -> list[tuple[Any, ...]]:
    with connection(url) as opened:
        return [tuple(row) for row in opened.exec_driver_sql(query)]


def told(outcome: Outcome) -> Sequence[str]:
    assert outcome.code == 0, outcome.err
    return [line.strip() for line in outcome.out.splitlines() if " rows" in line]


LIKES = "SELECT member_id, song_id, created_at FROM song_like ORDER BY 1, 2"
LISTS = """SELECT p.playlist_id, p.member_id, s.song_id FROM playlist p
           JOIN playlist_song s ON s.playlist_id = p.playlist_id ORDER BY 1, 3"""
COLUMNS = "song_id, title_kr, title_en, title_yomi, artist, artist_kr, mood, lang, tj_number, is_active"
SONGS = f"SELECT {COLUMNS} FROM song ORDER BY song_id"


class BackendImportTests:
    async def test_items_likes_and_playlists_are_copied_under_their_ids(self, url: str, site: str) -> None:
        fill(url)
        assert told(await copy(site, url)) == [
            f"{N_SONGS} rows: {N_SONGS} songs new, 0 changed, 0 as they were; 0 rows left out",
            "4 rows: 4 likes new, 0 changed, 0 as they were; 0 rows left out",
            "4 rows: 4 songs of lists new, 0 changed, 0 as they were; 0 rows left out",
        ]
        assert table(site, SONGS) == table(url, SONGS)
        assert table(site, "SELECT DISTINCT genre FROM song") == [("ballad, pop",)]
        assert [row[:2] for row in table(site, LIKES)] == [row[:2] for row in table(url, LIKES)]
        assert {str(row[2])[:19] for row in table(site, LIKES)} == {str(LONG_AGO)}
        assert table(site, LISTS) == table(url, LISTS)

    async def test_it_goes_on_after_the_last_id(self, url: str, site: str) -> None:
        fill(url)
        await copy(site, url)
        insert_songs(url, {"song_id": 9001, "title_en": "New"})
        like(url, 2, 9001)
        add_to_playlist(url, 3, 9001)
        assert told(await copy(site, url)) == [
            "1 rows, going on from where it was: 1 songs new, 0 changed, 0 as they were; 0 rows left out",
            "1 rows, going on from where it was: 1 likes new, 0 changed, 0 as they were; 0 rows left out",
            "1 rows, going on from where it was: 1 songs of lists new, 0 changed, 0 as they were; 0 rows left out",
        ]
        assert table(site, LISTS) == table(url, LISTS)

    async def test_afresh_reads_it_all_and_writes_what_has_changed(self, url: str, site: str) -> None:
        fill(url)
        await copy(site, url)
        update_song(url, 15, title_kr="바뀐 노래")
        assert told(await copy(site, url, "--afresh")) == [
            f"{N_SONGS} rows: 0 songs new, 1 changed, {N_SONGS - 1} as they were; 0 rows left out",
            "4 rows: 0 likes new, 0 changed, 4 as they were; 0 rows left out",
            "4 rows: 0 songs of lists new, 0 changed, 4 as they were; 0 rows left out",
        ]
        assert table(site, SONGS) == table(url, SONGS)
        assert len(table(site, LIKES)) == 4

    async def test_an_import_that_broke_off_goes_on_with_the_next_page(self, url: str, site: str) -> None:
        fill(url)
        # As it is left where only the first page of songs, 1000 of them, was saved.
        await copy(site, url)
        execute(site, "DELETE FROM song WHERE song_id > 5000", "DELETE FROM songs_ai_item_source WHERE item_id > 5000")
        execute(site, "DELETE FROM songs_ai_import_cursor WHERE source_key NOT LIKE '%/song'")
        execute(site, "UPDATE songs_ai_import_cursor SET next_page = '[5000]'")
        first = told(await copy(site, url))[0]
        assert (
            first == "200 rows, going on from where it was: 200 songs new, 0 changed, 0 as they were; 0 rows left out"
        )
        assert table(site, SONGS) == table(url, SONGS)

    async def test_what_hangs_in_the_air_is_left_out_and_told(self, url: str, site: str) -> None:
        fill(url)
        insert_songs(url, {"song_id": 9001, "artist": "Nobody"})
        like(url, 3, 777_777)
        outcome = await copy(site, url)
        songs, likes, _ = told(outcome)
        assert songs.endswith("1 rows left out")
        assert likes.endswith("1 rows left out")
        assert "9001: title_kr is empty" in outcome.err
        assert "3: item '777777' was not imported" in outcome.err

    async def test_a_database_that_is_no_backends_is_refused(self, url: str, site: str) -> None:
        execute(url, "CREATE TABLE other (id INTEGER PRIMARY KEY)")
        outcome = await copy(site, url)
        assert outcome.code == 2
        assert "--from: the database has no table 'song'" in outcome.err

    async def test_a_table_without_a_column_is_refused_by_its_name(self, url: str, site: str) -> None:
        create_backend_tables(url)
        execute(url, "ALTER TABLE song DROP COLUMN mood")
        outcome = await copy(site, url)
        assert outcome.code == 2
        assert "--from: table 'song' has no column 'mood'" in outcome.err

    async def test_a_table_may_have_a_key_of_several_columns(self, url: str, site: str) -> None:
        fill(url)
        columns = "song_id BIGINT, member_id BIGINT, created_at TIMESTAMP NULL"
        execute(
            url,
            "DROP TABLE song_like",
            f"CREATE TABLE song_like ({columns}, PRIMARY KEY (song_id, member_id))",
            *(
                f"INSERT INTO song_like (song_id, member_id) VALUES ({5 * n}, {n % 7})"
                for n in range(1, N_SONGS + 1, 5)
            ),
        )
        with patch("services.other_catalogue._PAGE", 100):
            assert told(await copy(site, url))[1].startswith("240 rows: 240 likes new")
        assert table(site, LIKES) == table(url, LIKES)
        execute(url, "INSERT INTO song_like (song_id, member_id) VALUES (6000, 8)")
        assert told(await copy(site, url))[1].startswith("1 rows, going on from where it was: 1 likes new")

    @pytest.mark.parametrize(
        ("key", "sentence"),
        [("", "has no primary key to read it by"), ("BINARY(16) PRIMARY KEY", "is neither number nor text")],
    )
    async def test_a_table_that_cannot_be_gone_on_with_is_refused(
        self, key: str, sentence: str, url: str, site: str
    ) -> None:
        fill(url)
        own = f"id {key}, " if key else ""
        execute(
            url,
            "DROP TABLE song_like",
            f"CREATE TABLE song_like ({own}song_id BIGINT, member_id BIGINT, created_at TIMESTAMP NULL)",
            f"INSERT INTO song_like ({'id, ' if key else ''}song_id, member_id) VALUES "
            f"({'X' + repr('00' * 16) + ', ' if key else ''}5, 1)",
        )
        outcome = await copy(site, url)
        assert outcome.code == 2
        assert sentence in outcome.err

    async def test_a_column_of_active_songs_may_be_missing(self, url: str, site: str) -> None:
        fill(url)
        execute(url, "ALTER TABLE song DROP COLUMN is_active")
        assert told(await copy(site, url))[0].startswith(f"{N_SONGS} rows: {N_SONGS} songs new")
        assert table(site, "SELECT DISTINCT is_active FROM song") == [(None,)]


class TestFromSqlite(OnSqlite, BackendImportTests):
    pass


class TestFromMySql(OnMySql, BackendImportTests):
    async def test_an_account_that_may_only_read_is_enough(self, url: str, site: str) -> None:
        fill(url)
        name = make_url(url).database
        # MariaDB may have an anonymous account at localhost, which would go before one at any host.
        accounts = [f"'reader_{name}'@'{host}'" for host in ("%%", "localhost")]
        for account in accounts:
            execute(
                url, f"CREATE USER {account} IDENTIFIED BY 'pa55word-x'", f"GRANT SELECT ON `{name}`.* TO {account}"
            )
        try:
            reader = make_url(url).set(username=f"reader_{name}", password="pa55word-x")
            outcome = await copy(site, reader.render_as_string(hide_password=False))
            assert told(outcome)[0].startswith(f"{N_SONGS} rows: {N_SONGS} songs new")
            assert "pa55word" not in outcome.out + outcome.err
        finally:
            execute(url, *(f"DROP USER {account}" for account in accounts))

    async def test_a_password_that_is_refused_is_not_shown(self, url: str, site: str) -> None:
        wrong = make_url(url).set(username="nobody", password="pa55word-x").render_as_string(hide_password=False)
        outcome = await copy(site, wrong)
        assert outcome.code == 1
        assert "--from: mysql" in outcome.err
        assert "pa55word" not in outcome.out + outcome.err

    async def test_flags_of_one_bit_are_read(self, url: str, site: str) -> None:
        fill(url)
        execute(url, "ALTER TABLE song MODIFY is_active BIT(1)")
        await copy(site, url)
        counts: Mapping[Any, Any] = dict(table(site, "SELECT is_active, COUNT(*) FROM song GROUP BY 1"))
        assert counts == {0: 1, 1: N_SONGS - 1}


@pytest.mark.parametrize("url", ["postgres://me:pa55word-x@host/songs", "mysql://me:pa55word-x@host", "pa55word-x"])
async def test_what_is_no_database_is_refused_and_not_shown(url: str, site: str) -> None:
    outcome = await copy(site, url)
    assert outcome.code == 2
    assert "--from" in outcome.err
    assert "pa55word" not in outcome.out + outcome.err


async def test_the_sites_own_database_is_refused(site: str) -> None:
    outcome = await copy(site, site)
    assert (outcome.code, "--from is the database of this site itself" in outcome.err) == (2, True)


async def test_a_site_with_a_backend_of_its_own_is_left_alone(site: str, tmp_path: Path) -> None:
    other = f"sqlite:///{tmp_path / 'other.db'}"
    fill(other)
    create_backend_tables(site)
    insert_songs(site, {"song_id": 1, "title_en": "One"})
    outcome = await copy(site, other)
    assert outcome.code == 2
    assert "it is a backend's, and is left alone" in " ".join(outcome.err.split())
    assert len(table(site, SONGS)) == 1


async def test_ids_of_two_backends_are_not_mixed(site: str, tmp_path: Path) -> None:
    one, two = (f"sqlite:///{tmp_path / name}.db" for name in ("one", "two"))
    for url in (one, two):
        fill(url)
    assert (await copy(site, one)).code == 0
    outcome = await copy(site, two)
    assert outcome.code == 2
    assert "is there already" in outcome.err
    [[name]] = table(site, "SELECT DISTINCT source FROM songs_ai_item_source")
    insert_songs(two, {"song_id": 9001, "title_en": "New"})
    moved = told(await copy(site, two, "--name", name))
    assert moved[0].startswith("1 rows, going on from where it was: 1 songs new"), "one that has moved has its name"


async def test_a_name_that_is_too_long_is_refused(site: str, tmp_path: Path) -> None:
    outcome = await copy(site, f"sqlite:///{tmp_path / 'other.db'}", "--name", "n" * 65)
    assert (outcome.code, outcome.err.strip()) == (2, "--name is longer than 64 characters")


async def test_the_url_may_be_asked_for(site: str, tmp_path: Path) -> None:
    other = f"sqlite:///{tmp_path / 'other.db'}"
    fill(other)
    with patch("typer.prompt", return_value=other) as prompt:
        assert told(await copy(site, "-"))[0].startswith(f"{N_SONGS} rows: {N_SONGS} songs new")
    assert prompt.call_args.kwargs == {"hide_input": True}
