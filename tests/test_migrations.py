"""Our own tables: forward, back, again, and two workers at once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from structlog.testing import capture_logs

from core.errors import ConfigurationError, DependencyUnavailable
from services import migrations
from services.database import Database
from services.schema import OWN_PREFIX, VERSION_TABLE, own_metadata
from tests.support.catalogue import OnMySql, OnSqlite, connection, create_backend_tables, execute, insert_songs


def _tables(url: str) -> set[str]:
    with connection(url) as opened:
        return set(sa.inspect(opened).get_table_names())


OWN_TABLES = {table.name for table in own_metadata.sorted_tables}
NEWEST = ScriptDirectory(str(migrations._SCRIPTS)).get_current_head()


class MigrationTests:
    def test_a_fresh_database_gets_our_tables_and_nothing_else(self, url: str) -> None:
        assert migrations.current(url) is None
        migrations.upgrade(url)
        assert _tables(url) == OWN_TABLES | {VERSION_TABLE}
        assert migrations.current(url) == NEWEST

    def test_every_table_of_ours_bears_our_prefix(self, url: str) -> None:
        migrations.upgrade(url)
        assert all(name.startswith(OWN_PREFIX) for name in _tables(url))

    def test_the_migrated_tables_are_those_that_the_code_uses(self, url: str) -> None:
        migrations.upgrade(url)
        with connection(url) as opened:
            options = {"version_table": VERSION_TABLE, "compare_type": True}
            assert compare_metadata(MigrationContext.configure(opened, opts=options), own_metadata) == []

    def test_a_migrated_database_can_be_migrated_again(self, url: str) -> None:
        migrations.upgrade(url)
        execute(url, "INSERT INTO songs_ai_item_feature (item_id, features, popularity) VALUES (1, '{}', 0.5)")
        migrations.upgrade(url)
        with connection(url) as opened:
            assert opened.exec_driver_sql("SELECT item_id FROM songs_ai_item_feature").scalars().all() == [1]

    def test_going_back_takes_our_tables_away_and_leaves_the_backends(self, url: str) -> None:
        create_backend_tables(url)
        insert_songs(url, {"song_id": 1, "title_en": "One"})
        before = _tables(url)
        migrations.upgrade(url)
        migrations.downgrade(url)
        assert _tables(url) - {VERSION_TABLE} == before
        assert migrations.current(url) is None
        with connection(url) as opened:
            assert opened.exec_driver_sql("SELECT title_en FROM song").scalars().all() == ["One"]

    def test_forward_after_back_is_as_new(self, url: str) -> None:
        migrations.upgrade(url)
        migrations.downgrade(url)
        migrations.upgrade(url)
        assert _tables(url) >= OWN_TABLES

    def test_a_migration_that_was_cut_off_ends_when_it_runs_again(self, url: str) -> None:
        migrations.upgrade(url)
        execute(
            url,
            f"DELETE FROM {VERSION_TABLE}",
            "DROP TABLE songs_ai_interaction",
        )
        migrations.upgrade(url)
        assert migrations.current(url) == NEWEST
        with connection(url) as opened:
            indexes = sa.inspect(opened).get_indexes("songs_ai_interaction")
        assert sorted(str(index["name"]) for index in indexes) == [
            "ix_songs_ai_interaction_member",
            "ix_songs_ai_interaction_time",
        ]

    def test_books_of_batches_from_before_their_sums_were_kept_go_forward_and_back(self, url: str) -> None:
        migrations.upgrade(url, "0009")
        part = "INSERT INTO songs_ai_refresh_part (part_key, run_on, created_at, n_questions, status) VALUES "
        question = (
            "INSERT INTO songs_ai_refresh_question (part_key, custom_id, member_id, taste_mark, shown_ids) VALUES "
        )
        execute(url, part + "('k', '2026-03-01', '2026-03-01', 1, 'completed')", question + "('k', 'c', 1, 't', '[]')")
        migrations.upgrade(url)
        execute(url, part + "('forgotten', '2026-01-01', '2026-01-01', 1, 'completed')")
        with connection(url) as opened:
            found = opened.exec_driver_sql("SELECT cost_nano_usd, n_merged FROM songs_ai_refresh_part").all()
            assert found == [(None, None)] * 2
        migrations.downgrade(url, "0009")
        with connection(url) as opened:
            # A program of that time removes a part with its questions.
            assert opened.exec_driver_sql("SELECT part_key FROM songs_ai_refresh_part").scalars().all() == ["k"]
        migrations.upgrade(url)
        assert migrations.current(url) == NEWEST

    def test_going_back_over_data_is_refused_by_naming_it_until_its_loss_is_wanted(self, url: str) -> None:
        migrations.upgrade(url)
        execute(
            url,
            "INSERT INTO songs_ai_import_cursor (source_key, next_page) VALUES ('a', '2'), ('b', '3')",
            "INSERT INTO songs_ai_refresh_part (part_key, run_on, created_at, n_questions, cost_nano_usd)"
            " VALUES ('k', '2026-03-01', '2026-03-01', 1, 7), ('l', '2026-03-01', '2026-03-01', 1, NULL)",
        )
        with pytest.raises(ConfigurationError, match="lose-data") as refused:
            migrations.downgrade(url, "0008", lose_data=False)
        assert "songs_ai_import_cursor (2 rows)" in str(refused.value)
        assert "songs_ai_refresh_part.cost_nano_usd (1 rows)" in str(refused.value)
        assert "n_merged" not in str(refused.value)  # a column that holds nothing is no loss
        assert migrations.current(url) == NEWEST
        migrations.downgrade(url, "0008", lose_data=True)
        assert migrations.current(url) == "0008"

    def test_going_back_where_nothing_is_lost_needs_no_leave(self, url: str) -> None:
        migrations.upgrade(url, "0009")
        execute(url, "INSERT INTO songs_ai_item_feature (item_id, features, popularity) VALUES (1, '{}', 0.5)")
        migrations.downgrade(url, "-1", lose_data=False)
        assert migrations.current(url) == "0008"
        with connection(url) as opened:
            assert opened.exec_driver_sql("SELECT item_id FROM songs_ai_item_feature").scalars().all() == [1]

    def test_tables_of_a_newer_version_are_left_alone(self, url: str) -> None:
        migrations.upgrade(url)
        execute(url, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
        with capture_logs() as said:
            migrations.upgrade(url)
        assert [(line["event"], line["revision"]) for line in said] == [("newer_schema_found", "9999")]
        with pytest.raises(ConfigurationError, match=r"9999.*does not know"):
            migrations.downgrade(url)
        assert migrations.current(url) == "9999"
        assert _tables(url) == OWN_TABLES | {VERSION_TABLE}

    @pytest.mark.parametrize("revision", ["0123", "-99"])
    def test_a_revision_that_there_is_not_is_named(self, url: str, revision: str) -> None:
        migrations.upgrade(url)
        with pytest.raises(ConfigurationError, match=revision):
            migrations.downgrade(url, revision, lose_data=False)
        assert migrations.current(url) == NEWEST

    def test_workers_that_migrate_at_once_all_succeed(self, url: str) -> None:
        n = 4
        together = threading.Barrier(n)

        def migrate(_: int) -> None:
            together.wait(timeout=10)
            migrations.upgrade(url)

        with ThreadPoolExecutor(n) as pool:
            list(pool.map(migrate, range(n)))
        assert migrations.current(url) == NEWEST


class TestMigrationsOnMySql(OnMySql, MigrationTests):
    def test_text_keys_are_compared_byte_for_byte(self, url: str) -> None:
        migrations.upgrade(url)
        values = "VALUES ('spotify', '{}', 1, '')"
        insert = "INSERT INTO songs_ai_item_source (source, source_id, item_id, content_hash) "
        execute(url, insert + values.format("6rqhFgbbKwnb9MLmUQDhG6"), insert + values.format("6RQHFGBBKWNB9MLMUQDHG6"))

    def test_a_worker_waits_no_longer_than_it_should_for_anothers_migration(
        self, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(migrations, "_LOCK_WAIT_S", 1)
        with (
            connection(url) as opened,
            migrations._mysql_lock(opened),  # what another worker holds
            pytest.raises(DependencyUnavailable, match="another migration"),
        ):
            migrations.upgrade(url)


class TestMigrationsOnSqlite(OnSqlite, MigrationTests):
    async def test_a_database_in_memory_is_migrated_like_a_file(self) -> None:
        database = Database("sqlite:///:memory:")
        migrations.upgrade(database.sync_url)
        async with database.connect() as opened:
            assert (await opened.execute(sa.text("SELECT COUNT(*) FROM songs_ai_embedding"))).scalar_one() == 0
        await database.close()


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(DependencyUnavailable, match=r"^mysql: ") as caught:
        migrations.upgrade("mysql://root:secret-word@127.0.0.1:1/songs")
    assert "secret-word" not in str(caught.value)


def test_a_url_of_an_unknown_database_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="mysql://"):
        migrations.upgrade("postgresql://me:secret-word@localhost/songs")
