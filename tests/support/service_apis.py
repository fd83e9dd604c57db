"""Spotify's Web API and RAWG's, as far as imports ask them, on loopback; each can be made to fail."""

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiohttp import web

from tests.support.loopback_http import serving

CLIENT_SECRET = "spotify-pa55word"
RAWG_KEY = "rawg-pa55word"


@dataclass
class ServiceApi:
    """Answers ``faults`` by path before anything else, one after the other: a status, its headers and its body.

    From its call of the number in ``broken_from`` on, counted from 1, a path answers 500.
    """

    url: str = ""
    faults: dict[str, list[web.Response]] = field(default_factory=dict)
    broken_from: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def fail(self, path: str, *statuses: int, body: str = '{"error": {"message": "no"}}', **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answers = [
            web.Response(status=status, headers=named, text=body, content_type="application/json")
            for status in statuses
        ]
        self.faults.setdefault(path, []).extend(answers)

    def count(self, path: str) -> int:
        return sum(each == path for each in self.asked)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.asked.append(request.path)
        if waiting := self.faults.get(request.path):
            return waiting.pop(0)
        if self.count(request.path) >= self.broken_from.get(request.path, sys.maxsize):
            return web.Response(status=500, text="{}")
        answer: web.StreamResponse = await handler(request)
        return answer


def track(number: int, **fields: object) -> dict[str, Any]:
    """A full track object."""
    return {
        "id": f"track{number:018}",
        "name": f"Song {number}",
        "type": "track",
        "artists": [{"id": f"artist{number % 7:016}", "name": f"Artist {number % 7}"}],
        "album": {"name": "An Album"},
        "popularity": number % 100,
        "duration_ms": 180_000 + number,
        **fields,
    }


@dataclass
class SpotifyApi(ServiceApi):
    """One playlist, of ``tracks``, which a search finds as well."""

    tracks: list[Any] = field(default_factory=list)
    snapshot: str = "first"
    entry_name: str = "item"

    def routes(self) -> Sequence[web.RouteDef]:
        return [
            web.post("/api/token", self.token),
            web.get("/v1/search", self.search),
            web.get("/v1/playlists/{id}", self.playlist),
            web.get("/v1/playlists/{id}/items", self.playlist_items),
            web.get("/v1/artists/", self.artists),
            web.get("/v1/audio-features", self.audio_features),
        ]

    async def token(self, _: web.Request) -> web.Response:
        return web.json_response({"access_token": "t0ken-of-an-hour", "token_type": "Bearer", "expires_in": 3600})

    def _page(self, request: web.Request, entries: Sequence[object]) -> dict[str, Any]:
        assert request.headers["Authorization"] == "Bearer t0ken-of-an-hour"
        offset, limit = int(request.query["offset"]), int(request.query["limit"])
        part = entries[offset : offset + limit]
        more = offset + limit < len(entries)
        return {"items": part, "total": len(entries), "next": f"{self.url}/next" if more else None}

    async def search(self, request: web.Request) -> web.Response:
        assert int(request.query["limit"]) <= 10
        return web.json_response({"tracks": self._page(request, self.tracks)})

    async def playlist(self, _: web.Request) -> web.Response:
        return web.json_response({"snapshot_id": self.snapshot})

    async def playlist_items(self, request: web.Request) -> web.Response:
        return web.json_response(self._page(request, [{self.entry_name: each} for each in self.tracks]))

    async def artists(self, request: web.Request) -> web.Response:
        ids = request.query["ids"].split(",")
        assert len(ids) <= 50
        return web.json_response({"artists": [{"id": each, "genres": ["k-pop", "dance, pop"]} for each in ids]})

    async def audio_features(self, request: web.Request) -> web.Response:
        ids = request.query["ids"].split(",")
        found = [{"id": each, "danceability": 0.8, "energy": 0.9, "valence": 0.7, "tempo": 120.5} for each in ids]
        return web.json_response({"audio_features": [*found[1:], None]})


def game(number: int, **fields: object) -> dict[str, Any]:
    return {
        "id": number,
        "name": f"Game {number}",
        "rating": 4.5,
        "playtime": 12,
        "added": 30_000 - number,
        "genres": [{"id": 4, "name": "Action"}, {"id": 5, "name": "RPG"}],
        "platforms": [{"platform": {"id": 1, "name": "PC"}, "released_at": None}],
        **fields,
    }


@dataclass
class RawgApi(ServiceApi):
    """Pages of ``games``."""

    games: list[Any] = field(default_factory=list)

    def routes(self) -> Sequence[web.RouteDef]:
        return [web.get("/games", self.page)]

    async def page(self, request: web.Request) -> web.Response:
        if request.query["key"] != RAWG_KEY:
            return web.json_response({"error": "The API key is not found"}, status=401)
        number, size = int(request.query["page"]), int(request.query["page_size"])
        part = self.games[(number - 1) * size : number * size]
        if not part and number > 1:
            return web.json_response({"detail": "Invalid page."}, status=404)
        more = number * size < len(self.games)
        # The key is in the address of the next page too.
        next_url = f"{self.url}/games?key={RAWG_KEY}&page={number + 1}" if more else None
        return web.json_response({"count": len(self.games), "next": next_url, "results": part})


Api = TypeVar("Api", "SpotifyApi", "RawgApi")


@asynccontextmanager
async def served(api: Api) -> AsyncIterator[Api]:
    """On a loopback port of its own."""
    app = web.Application(middlewares=[api.middleware])
    app.add_routes(api.routes())
    async with serving(app) as api.url:
        yield api
