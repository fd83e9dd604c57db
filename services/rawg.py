"""Reads games from RAWG's API (https://api.rawg.io/docs/); nothing is written there."""

from collections.abc import AsyncGenerator, Mapping
from functools import partial
from hashlib import blake2b

import httpx
from pydantic import SecretStr

from core.errors import ConfigurationError
from core.ports.filling import RowPage
from services.paced_calls import NotNow, PacedCalls
from services.retry_after import seconds_of

URL = "https://api.rawg.io/api/games"

_PAGE = 40
_TIMEOUT_S = 20.0
_REFUSED, _PAST_THE_END, _TOO_MANY, _BROKEN = (401, 403), 404, 429, 500


class RawgSource:
    """``RowSource`` of games, those first that most people have; several values of a cell are parted by semicolons.

    The key, which stands in the address of every call, is in no error.
    """

    def __init__(
        self, http: httpx.AsyncClient, key: SecretStr, calls: PacedCalls, *, query: str = "", url: str = URL
    ) -> None:
        if not key.get_secret_value():
            raise ConfigurationError("RAWG_API_KEY is needed to read RAWG's API")
        self._http, self._key, self._calls, self._query, self._url = http, key, calls, query, url

    @property
    def key(self) -> str:
        """See ``RowSource.key``."""
        return f"rawg:{blake2b(self._query.encode(), digest_size=16).hexdigest()}"

    async def pages(self, cursor: str | None) -> AsyncGenerator[RowPage, None]:
        """See ``RowSource.pages``."""
        number = int(cursor) if cursor else 1
        while True:
            document = await self._calls.call(partial(self._page, number))
            number += 1
            more = bool(document["next"] and document["results"])
            yield RowPage([_row(game) for game in _list(document["results"])], str(number) if more else None)
            if not more:
                return

    async def _page(self, number: int) -> Mapping[str, object]:
        asked: dict[str, str | int] = {"page": number, "page_size": _PAGE, "ordering": "-added"}
        asked |= {"search": self._query} if self._query else {}
        try:
            answer = await self._http.get(
                self._url, params={**asked, "key": self._key.get_secret_value()}, timeout=_TIMEOUT_S
            )
        except httpx.HTTPError as error:
            raise NotNow(f"no answer ({type(error).__name__})") from None
        _check(answer, number)
        try:
            document = answer.json() if answer.status_code != _PAST_THE_END else {"results": []}
            return {"next": document.get("next"), "results": _list(document["results"])}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise NotNow(f"no answer as it should be ({type(error).__name__})") from None


def _check(answer: httpx.Response, number: int) -> None:
    status = answer.status_code
    if status == _TOO_MANY or status >= _BROKEN:
        raise NotNow(f"status {status}", wait_s=seconds_of(answer.headers.get("Retry-After")))
    if status in _REFUSED:
        raise ConfigurationError(f"RAWG refuses RAWG_API_KEY, or its quota is used up (status {status})")
    # Fewer games than when it was read last.
    if status == _PAST_THE_END and number > 1:
        return
    if not answer.is_success:
        raise ConfigurationError(f"RAWG answers with status {status}")


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError(type(value).__name__)
    return value


def _row(game: object) -> Mapping[str, str]:
    fields = game if isinstance(game, dict) else {}
    return {str(name): text_of(value) for name, value in fields.items()}


def text_of(value: object) -> str:
    """A value of a JSON document as a cell: of an object its name, of a list all, parted by semicolons."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case list():
            return ";".join(filter(None, map(text_of, value)))
        case dict():
            # A platform, such as {"platform": {"name": "PC"}, ...}, is named one level below.
            named = value.get("name") or next((each for each in value.values() if isinstance(each, dict)), "")
            return text_of(named)
    return str(value)
