"""Rows of a catalogue that no backend should hold, but some do: each is an item, and none stops the others."""

from collections.abc import Mapping

import numpy as np
import pytest
import sqlalchemy as sa

from core.embedding import HashingEmbedder
from models.catalogue import Item
from services.catalogue import SqlCatalogue
from services.database import Database
from services.embedding_store import SqlEmbeddingStore
from tests.support.catalogue import SONGS, OnMySql, OnSqlite, WithTables, connection, insert_songs
from training.embed import embed_catalogue

LONG = "가" * 255
ODD_SONGS: Mapping[str, Mapping[str, object]] = {
    "nothing at all": {},
    "255 characters everywhere": {
        **dict.fromkeys(("title_kr", "title_en", "title_jp", "title_yomi", "artist", "artist_kr", "genre"), LONG),
        "mood": "m" * 255,
    },
    "emoji": {"title_en": "🎵👩‍👩‍👧‍👦🏳️‍🌈", "artist": "🎤", "genre": "🎸,🥁"},
    "right to left": {"title_en": "\u202eمرحبا שלום\u202c", "artist": "فيروز", "lang": "ar"},
    "combining marks without end": {"title_en": "Z" + "\u0301" * 200, "artist": "\u200b\u200b\ufeff"},
    "control characters": {"title_en": "a\x01\x1b[31mb\tc\nd", "artist": "\x7f"},
    "commas alone": {"title_en": "Commas", "genre": ",,, ,", "mood": " , "},
    "numbers below zero": {"title_en": "Below", "tj_number": -1, "ky_number": -(2**63)},
    "a statement": {"title_en": "'); DROP TABLE song; --", "artist": "%s {x} \\"},
}
ODD_FEATURES = {
    "no object": "[1, 2]",
    "null": "null",
    "text for a number": '{"energy": "loud", "tempo": null, "valence": [1]}',
    "a number beyond all floats": '{"energy": 0.5, "tempo": ' + "9" * 400 + "}",
    "infinity": '{"energy": 0.5, "tempo": 1e999}',
    "true": '{"energy": true, "": 1}',
}


def give_raw_features(url: str, item_id: int, features: str, popularity: float | None = None) -> None:
    statement = sa.text("INSERT INTO songs_ai_item_feature (item_id, features, popularity) VALUES (:id, :text, :share)")
    with connection(url) as opened:
        opened.execute(statement, {"id": item_id, "text": features, "share": popularity})


async def streamed(database: Database) -> list[Item]:
    return [item async for batch in SqlCatalogue(database, SONGS).stream() for item in batch]


class OddRowTests(WithTables):
    async def test_every_odd_row_is_an_item_and_gets_its_vector(self, url: str, database: Database) -> None:
        insert_songs(url, *({"song_id": number, **song} for number, song in enumerate(ODD_SONGS.values(), start=1)))
        insert_songs(url, {"song_id": 100, "title_en": "Plain", "artist": "Someone", "genre": "rock"})
        items = await streamed(database)
        embedder, store = HashingEmbedder(128, text_columns=SONGS.item.text), SqlEmbeddingStore(database, SONGS)
        await embed_catalogue(SqlCatalogue(database, SONGS), embedder, store, text_columns=SONGS.item.text)
        rows = await store.load(embedder.name)
        assert [item.item_id for item in items] == [*range(1, len(ODD_SONGS) + 1), 100]
        assert np.isfinite(rows.vectors).all()
        assert {100, 2, 4} <= set(rows.ids.tolist())
        norms = np.linalg.norm(rows.vectors.astype(np.float32), axis=1)
        assert np.all((norms < 1e-3) | (np.abs(norms - 1) < 1e-2))

    async def test_texts_come_back_as_they_stand(self, url: str, database: Database) -> None:
        insert_songs(url, *({"song_id": number, **song} for number, song in enumerate(ODD_SONGS.values(), start=1)))
        for item, song in zip(await streamed(database), ODD_SONGS.values(), strict=True):
            assert item.titles.get("en") == (str(song["title_en"]).strip() if song.get("title_en") else None)
            assert all(part.strip() for part in (*item.genres, *item.moods))

    @pytest.mark.parametrize("kind", ODD_FEATURES)
    async def test_odd_features_of_one_song_stop_no_other(self, url: str, database: Database, kind: str) -> None:
        insert_songs(url, {"song_id": 1, "title_en": "Odd"}, {"song_id": 2, "title_en": "Plain"})
        try:
            give_raw_features(url, 1, ODD_FEATURES[kind])
        except sa.exc.DBAPIError:
            pytest.skip("the database itself refuses it")
        give_raw_features(url, 2, '{"energy": 0.25}', 0.5)
        catalogue = SqlCatalogue(database, SONGS)
        odd, plain = await streamed(database)
        known = await catalogue.features([1, 2])
        assert all(np.isfinite(number) for number in odd.features.values())
        assert "tempo" not in odd.features
        assert plain.features == known[2] == {"energy": 0.25}
        assert all(np.isfinite(number) for number in known.get(1, {}).values())


class TestOnSqlite(OnSqlite, OddRowTests):
    async def test_features_that_are_no_json_are_none(self, url: str, database: Database) -> None:
        insert_songs(url, {"song_id": 1}, {"song_id": 2})
        give_raw_features(url, 1, '{"energy": NaN}')
        give_raw_features(url, 2, '{"energy": 0.25}')
        assert await SqlCatalogue(database, SONGS).features([1, 2]) == {2: {"energy": 0.25}}
        assert [dict(item.features) for item in await streamed(database)] == [{}, {"energy": 0.25}]


class TestOnMySql(OnMySql, OddRowTests):
    pass
