"""Asks Spotify's Web API through spotipy, which need not be there otherwise; nothing is written there."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

from pydantic import SecretStr

from core.errors import ConfigurationError
from services.paced_calls import NotNow, PacedCalls
from services.retry_after import seconds_of

_TIMEOUT_S = 10
# Applications in development mode get no more than 10 tracks of a search at once.
_SEARCH_PAGE, _PLAYLIST_PAGE, _ARTISTS_A_CALL = 10, 50, 50
_REFUSED, _GONE, _TOO_MANY, _BROKEN = (401,), (400, 404), 429, 500
_NOT_ALLOWED = (403, 404, 410)

Tell = Callable[[str], None]
Answer = dict[str, Any]


class _NotAllowed(Exception):
    """The account may not read that."""


class Spotify:
    """The Web API, for one application; its secret is in no error and no log line.

    What not every application may read is asked for until it is refused, which is said once.
    """

    def __init__(self, client_id: SecretStr, client_secret: SecretStr, calls: PacedCalls, tell: Tell) -> None:
        """Raises ``ConfigurationError`` where spotipy or the keys are missing."""
        if not client_id.get_secret_value() or not client_secret.get_secret_value():
            raise ConfigurationError("SPOTIFY_CLIENT_ID and SPOTIFY_CLIENT_SECRET are needed to read Spotify's Web API")
        try:
            spotipy = import_module("spotipy")
            cache = import_module("spotipy.cache_handler").MemoryCacheHandler()
        except ModuleNotFoundError as error:
            raise ConfigurationError(f"{error.name} is missing: pip install -r requirements-import.txt") from None
        # It logs headers, with keys in them, at DEBUG, and at ERROR what becomes a sentence here.
        logging.getLogger("spotipy").setLevel(logging.CRITICAL)
        self._oauth_error, self._error = spotipy.SpotifyOauthError, spotipy.SpotifyException
        keys = spotipy.SpotifyClientCredentials(
            client_id.get_secret_value(),
            client_secret.get_secret_value(),
            requests_timeout=_TIMEOUT_S,
            cache_handler=cache,
        )
        # Its own retries would wait as long as it is told, a day for instance.
        self._client: Any = spotipy.Spotify(
            auth_manager=keys, requests_timeout=_TIMEOUT_S, retries=0, status_retries=0, status_forcelist=(0,)
        )
        self._calls, self._tell = calls, tell
        self._not_allowed: set[str] = set()

    async def search(self, query: str, offset: int) -> Answer:
        """A page of the tracks that ``query`` finds."""
        return await self._ask(
            lambda: self._client.search(query, limit=_SEARCH_PAGE, offset=offset, type="track")["tracks"]
        )

    async def playlist_page(self, playlist_id: str, offset: int) -> Answer:
        """A page of what is in a playlist."""
        return await self._ask(
            lambda: self._client.playlist_items(
                playlist_id, limit=_PLAYLIST_PAGE, offset=offset, additional_types=("track",)
            )
        )

    async def snapshot(self, playlist_id: str) -> str:
        """Changes whenever the playlist does."""
        found = await self._ask(lambda: self._client.playlist(playlist_id, fields="snapshot_id"))
        return str(found.get("snapshot_id", ""))

    async def genres(self, artist_ids: Sequence[str]) -> dict[str, list[str]]:
        """By artist."""
        found: dict[str, list[str]] = {}
        for start in range(0, len(artist_ids), _ARTISTS_A_CALL):
            part = artist_ids[start : start + _ARTISTS_A_CALL]
            answer = await self._if_allowed("genres of artists", partial(self._client.artists, part))
            known = (artist for artist in answer.get("artists") or [] if artist)
            found |= {str(artist.get("id")): list(artist.get("genres") or ()) for artist in known}
        return found

    async def features(self, track_ids: Sequence[str]) -> dict[str, Answer]:
        """By track, of those that have any; spotipy's own call would warn each time that it may be refused."""
        ids = ",".join(track_ids)
        answer = await self._if_allowed("audio features", lambda: self._client._get("audio-features", ids=ids))
        return {str(each.get("id")): each for each in answer.get("audio_features") or [] if each}

    async def _if_allowed(self, what: str, ask: Callable[[], Any]) -> Answer:
        if what in self._not_allowed:
            return {}
        try:
            return await self._ask(ask, optional=True)
        except _NotAllowed:
            self._not_allowed.add(what)
            self._tell(f"Spotify does not let this application read {what}: the import goes on without them")
            return {}

    async def _ask(self, ask: Callable[[], Any], *, optional: bool = False) -> Answer:
        async def once() -> Answer:
            return await asyncio.to_thread(self._once, ask, optional=optional)

        return await self._calls.call(once)

    def _once(self, ask: Callable[[], Any], *, optional: bool) -> Answer:
        try:
            return _dictionary(ask())
        except self._oauth_error as error:
            if str(error.error).startswith("invalid"):
                raise ConfigurationError("Spotify refuses SPOTIFY_CLIENT_ID and SPOTIFY_CLIENT_SECRET") from None
            raise NotNow("no token was to be had") from None
        except self._error as error:
            raise _meaning(error.http_status, error.headers.get("Retry-After"), optional=optional) from None
        # OSError is what requests raises; the others stand for answers of another shape than the API's.
        except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise NotNow(f"no answer as it should be ({type(error).__name__})") from None


def _meaning(status: int, retry_after: str | None, *, optional: bool) -> Exception:
    if optional and status in _NOT_ALLOWED:
        return _NotAllowed()
    if status == _TOO_MANY or status >= _BROKEN:
        return NotNow(f"status {status}", wait_s=seconds_of(retry_after))
    if status in _REFUSED:
        return ConfigurationError("Spotify refuses SPOTIFY_CLIENT_ID and SPOTIFY_CLIENT_SECRET")
    if status in _GONE:
        return ConfigurationError(f"Spotify knows no such playlist or search (status {status})")
    return ConfigurationError(f"Spotify does not let this application read that (status {status})")


def _dictionary(answer: object) -> Answer:
    """spotipy gives None for what is no JSON."""
    if not isinstance(answer, dict):
        raise TypeError(type(answer).__name__)
    return answer
