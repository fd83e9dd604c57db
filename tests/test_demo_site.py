"""An empty site gets a catalogue and a first recommendation; a site that has songs of its own is left alone."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from services.schema import own_metadata
from tests.support.backend_tables import song, song_like
from tests.support.catalogue import connection, create_all_tables, create_backend_tables, insert_songs
from tests.support.command import Outcome, run_command
from tests.support.messaging import delete_topology
from tests.support.track_rows import SONGS_HEADER, SONGS_ROW, csv_text
from tests.support.worker_process import worker
from workers.topology import build_topology

SMALL = ("--songs", "60", "--members", "5")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"DATABASE_URL": f"sqlite:///{tmp_path / 'songs.db'}", "LOG_LEVEL": "ERROR"}


def migrated(environment: dict[str, str]) -> None:
    """As ``main.py migrate`` leaves it."""
    with connection(environment["DATABASE_URL"]) as opened:
        own_metadata.create_all(opened)


def n_rows(environment: dict[str, str], table: str) -> int:
    with connection(environment["DATABASE_URL"]) as opened:
        return int(opened.scalar(sa.text(f"SELECT COUNT(*) FROM {table}")) or 0)


@pytest.fixture
async def queues(amqp_url: str) -> AsyncIterator[dict[str, str]]:
    """The broker's settings, with names that no other test uses."""
    prefix = f"test.{uuid.uuid4().hex[:8]}"
    yield {"BROKER_URL": amqp_url, "NAME_PREFIX": prefix}
    await delete_topology(amqp_url, build_topology(prefix, (5, 30, 120)))


async def filled(environment: dict[str, str]) -> Outcome:
    outcome = await run_command("demo-catalogue", *SMALL, environment=environment)
    assert outcome.code == 0, outcome.err
    return outcome


async def test_an_empty_database_gets_songs_listeners_and_vectors(environment: dict[str, str]) -> None:
    migrated(environment)
    outcome = await filled(environment)
    assert "made up 60 songs" in outcome.out
    assert "5 listeners" in outcome.out
    assert "60 embedded" in outcome.out


async def test_what_is_filled_stays_as_it_is(environment: dict[str, str]) -> None:
    migrated(environment)
    await filled(environment)
    with connection(environment["DATABASE_URL"]) as opened:
        opened.execute(sa.insert(song_like).values(member_id=1, song_id=60))
        opened.execute(sa.delete(song).where(song.c.song_id == 59))
    n_likes = n_rows(environment, "song_like")
    outcome = await filled(environment)
    assert "nothing is made up" in outcome.out
    assert "0 embedded, 59 as they were" in outcome.out
    assert n_rows(environment, "song_like") == n_likes


async def test_what_was_interrupted_goes_on_where_it_broke_off(environment: dict[str, str]) -> None:
    migrated(environment)
    await filled(environment)
    tables = ("song_like", "playlist_song", "playlist", "member", "songs_ai_embedding")
    with connection(environment["DATABASE_URL"]) as opened:
        for table in tables:
            opened.execute(sa.text(f"DELETE FROM {table}"))
        opened.execute(sa.delete(song).where(song.c.song_id > 40))
    await filled(environment)
    assert n_rows(environment, "song") == 60
    assert n_rows(environment, "member") == 5
    assert n_rows(environment, "songs_ai_embedding") == 60


@pytest.mark.parametrize("n_songs", [0, 3])
async def test_a_backends_table_of_songs_is_left_alone_even_while_it_is_empty(
    n_songs: int, environment: dict[str, str]
) -> None:
    migrated(environment)
    create_backend_tables(environment["DATABASE_URL"])
    insert_songs(environment["DATABASE_URL"], *({"song_id": n, "title_en": f"Song {n}"} for n in range(n_songs)))
    outcome = await filled(environment)
    assert "nothing to do" in outcome.out
    assert n_rows(environment, "song") == n_songs
    assert n_rows(environment, "member") == n_rows(environment, "songs_ai_embedding") == 0


async def test_what_another_file_filled_is_left_alone(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "songs.csv").write_text(csv_text(SONGS_HEADER, [SONGS_ROW]), encoding="utf-8")
    migrated(environment)
    await run_command("ingest", str(tmp_path / "songs.csv"), environment=environment)
    n_songs = n_rows(environment, "song")
    assert "nothing to do" in (await filled(environment)).out
    assert n_rows(environment, "song") == n_songs


async def test_a_profile_of_which_nothing_can_be_made_up_is_left_alone(environment: dict[str, str]) -> None:
    environment = {**environment, "CATALOGUE_PROFILE": "games"}
    migrated(environment)
    assert "nothing to do" in (await filled(environment)).out


async def test_no_job_of_a_member_of_somebody_elses_is_published(environment: dict[str, str]) -> None:
    create_all_tables(environment["DATABASE_URL"])
    insert_songs(environment["DATABASE_URL"], {"song_id": 1, "title_en": "One"})
    # no broker answers there: a job would have failed
    away = {**environment, "BROKER_URL": "amqp://127.0.0.1:1/"}
    outcome = await run_command("first-recommendation", environment=away)
    assert (outcome.code, "nothing to do" in outcome.out) == (0, True)


async def test_a_recommendation_that_no_worker_makes_is_said_to_be_missing(
    environment: dict[str, str], queues: dict[str, str], redis_url: str
) -> None:
    servers = {**environment, **queues, "REDIS_URL": redis_url}
    migrated(servers)
    await filled(servers)
    outcome = await run_command("first-recommendation", "--timeout-s", "0.3", environment=servers)
    assert outcome.code == 1
    assert "is a worker running?" in outcome.err


async def test_from_nothing_to_a_first_recommendation_without_a_key(
    mysql_url: str, queues: dict[str, str], redis_url: str
) -> None:
    environment = {**queues, "DATABASE_URL": mysql_url, "REDIS_URL": redis_url, "LOG_LEVEL": "ERROR"}
    migrated(environment)
    await filled(environment)
    async with worker(environment):
        outcome = await run_command("first-recommendation", environment=environment)
    assert outcome.code == 0, outcome.err
    assert "1 jobs ended" in outcome.out
    assert "likes" in outcome.out
    assert "recommended (offline)" in outcome.out
