"""The API as the pages ask it: HTTP, and nothing else of the program that they show."""

import re
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import httpx

from dashboard.shapes import (
    Active,
    Asked,
    Catalogue,
    CatalogueMap,
    DeadLetters,
    Found,
    FoundItems,
    Health,
    Item,
    Job,
    Member,
    Models,
    Replayed,
    SeedsAnswer,
)

TIMEOUT_S = 20.0
MAX_ASKED = 200
"""Characters that a search takes, and a wish."""
_BUSY, _NOT_FOUND = frozenset({429, 503}), 404
_KEYLESS = frozenset({401, 403})
_REFUSED_FROM = 400
_SECRET = re.compile(r"//[^/?#]*@")
_Shape = TypeVar("_Shape")


class Trouble(StrEnum):
    """What people can do about a request that failed."""

    UNREACHABLE = "unreachable"
    ADDRESS = "address"
    METRICS = "metrics"
    KEY = "key"
    BUSY = "busy"
    NOT_FOUND = "not_found"
    REFUSED = "refused"


class ApiProblem(Exception):
    """The API did not answer what was asked; ``detail`` is its own sentence on why."""

    def __init__(self, trouble: Trouble, detail: str) -> None:
        super().__init__(detail)
        self.trouble = trouble
        self.detail = detail


class Api:
    """One API at ``url``; every method raises ``ApiProblem``. ``key`` is its API key, empty for none.

    ``metrics_url``: where workers tell their metrics, where that is not the API; each address of its host is asked.
    """

    def __init__(self, url: str, *, key: str = "", metrics_url: str = "") -> None:
        self.url = url.strip().rstrip("/")
        self._metrics_url = metrics_url.strip()
        # As bytes: a key that is no ASCII is a wrong one, and no error.
        headers = {b"X-API-Key": key.strip().encode()} if key.strip() else {}
        self._client = httpx.Client(headers=headers, timeout=TIMEOUT_S)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    # --- the catalogue ---

    def search(self, text: str, limit: int) -> list[Found]:
        """What is called like ``text``, best first."""
        return self._get(FoundItems, "/search", q=text, limit=limit)["items"]

    def item(self, item_id: int) -> Item:
        """One item."""
        return self._get(Item, f"/items/{item_id}")

    def similar(self, item_id: int, n: int) -> list[Found]:
        """What is most like one."""
        return self._get(FoundItems, f"/items/{item_id}/similar", n=n)["items"]

    def catalogue(self) -> Catalogue:
        """How much there is of what."""
        return self._get(Catalogue, "/catalogue")

    def catalogue_map(self, n: int) -> CatalogueMap:
        """``n`` items at their places."""
        return self._get(CatalogueMap, "/catalogue/map", n=n)

    # --- recommendations ---

    def from_seeds(
        self,
        item_ids: Sequence[int],
        *,
        disliked_ids: Sequence[int],
        limit: int,
        locale: str,
        wish: str,
    ) -> SeedsAnswer:
        """A list at once, without a language model."""
        body = {"itemIds": list(item_ids), "dislikedIds": list(disliked_ids), "limit": limit, "locale": locale}
        return self._post(SeedsAnswer, "/recommend/seeds", {**body, "wish": wish or None})

    def explain(self, item_ids: Sequence[int], *, member_id: int, limit: int, locale: str, wish: str) -> str:
        """The id of a job that makes that list for ``member_id``, with a language model where there is one."""
        body = {"itemIds": list(item_ids), "memberId": member_id, "limit": limit, "locale": locale}
        return str(self._post(Asked, "/recommend/seeds", {**body, "wish": wish or None, "explain": True})["jobId"])

    def recommend(self, member_id: int, *, locale: str) -> str | None:
        """The id of a job that makes a new list for a member; None where a fresh one is there."""
        return self._post(Asked, "/recommend", {"memberId": member_id, "locale": locale})["jobId"]

    def job(self, job_id: str) -> Job:
        """How a job stands."""
        return self._get(Job, f"/jobs/{job_id}")

    def tell(self, member_id: int, events: Sequence[tuple[str, int]]) -> None:
        """Events of a member, each a type and an item, all of this moment."""
        # Named, for what arrives in one batch would have happened at once, whatever came last.
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        body = [{"memberId": member_id, "itemId": item_id, "type": kind, "occurredAt": now} for kind, item_id in events]
        self._answer("POST", "/events", json={"events": body})

    # --- members and models ---

    def active_members(self, limit: int) -> list[int]:
        """Who liked something last."""
        return self._get(Active, "/members/active", limit=limit)["memberIds"]

    def member(self, member_id: int) -> Member:
        """What is known of one."""
        return self._get(Member, f"/members/{member_id}")

    def models(self) -> Models:
        """The versions of the fitted models."""
        return self._get(Models, "/models")

    # --- operations ---

    def health(self) -> Health:
        """How the dependencies stand; where one is away this still answers."""
        response = self._answer("GET", "/health", may_be_unavailable=True)
        try:
            return self._read(Health, response)
        except ApiProblem as problem:
            if response.status_code < _REFUSED_FROM:
                raise
            raise _refusal(response) from problem  # a proxy's own, say

    def metrics(self) -> list[str]:
        """The exposition of every process at ``metrics_url``."""
        if not self._metrics_url:
            return [self._answer("GET", "/metrics").text]
        try:
            addresses = _each_address(self._metrics_url)
            return [self._asked("GET", url, headers=headers).text for url, headers in addresses]
        except httpx.LocalProtocolError as error:
            raise _unfit_key() from error
        except (ApiProblem, httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise self.metrics_problem(str(error) or type(error).__name__) from error

    def metrics_problem(self, why: str) -> ApiProblem:
        """What to raise where the metrics are none."""
        named = f"METRICS_URL={_shown(self._metrics_url)}" if self._metrics_url else f"{_shown(self.url)}/metrics"
        return ApiProblem(Trouble.METRICS, f"{named}: {why}")

    def dead_letters(self, limit: int) -> DeadLetters:
        """The oldest jobs that were given up."""
        return self._get(DeadLetters, "/dead-letters", limit=limit)

    def replay(self, letter_ids: Sequence[str]) -> dict[str, str]:
        """Send them back to work; what became of each that was found."""
        return self._post(Replayed, "/dead-letters/replay", {"letterIds": list(letter_ids)})["fates"]

    # --- HTTP ---

    def _get(self, shape: type[_Shape], path: str, **asked: str | int) -> _Shape:
        return self._read(shape, self._answer("GET", path, params=asked))

    def _post(self, shape: type[_Shape], path: str, body: Mapping[str, object]) -> _Shape:
        return self._read(shape, self._answer("POST", path, json=body))

    def _read(self, shape: type[_Shape], response: httpx.Response) -> _Shape:
        """The answer, where it has all that ``shape`` has: another server, or a page of a proxy, answers otherwise."""
        try:
            document = response.json()
        except ValueError:
            document = None
        if not isinstance(document, dict) or not shape.__annotations__.keys() <= document.keys():
            raise ApiProblem(Trouble.UNREACHABLE, f"{_shown(self.url)}: its answer is not the API's")
        return cast("_Shape", document)

    def _answer(self, method: str, path: str, **options: Any) -> httpx.Response:  # noqa: ANN401 - httpx's
        try:
            return self._asked(method, f"{self.url}{path}", **options)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise ApiProblem(Trouble.ADDRESS, f"API_URL={_shown(self.url)}: {error}") from error
        except httpx.LocalProtocolError as error:
            raise _unfit_key() from error
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise ApiProblem(Trouble.UNREACHABLE, f"{_shown(self.url)}: {why}") from error

    def _asked(self, method: str, url: str, *, may_be_unavailable: bool = False, **options: Any) -> httpx.Response:  # noqa: ANN401 - httpx's
        response = self._client.request(method, url, **options)
        if response.status_code < _REFUSED_FROM or (may_be_unavailable and response.status_code in _BUSY):
            return response
        raise _refusal(response)


def _unfit_key() -> ApiProblem:
    """In words of ours: those of the error show the key."""
    return ApiProblem(Trouble.KEY, "API_KEY holds what no header can")


def _refusal(response: httpx.Response) -> ApiProblem:
    return ApiProblem(_trouble(response.status_code), _detail(response))


def _shown(url: str) -> str:
    """``url`` as others may read it."""
    return _SECRET.sub("//***@", url)


def _trouble(status: int) -> Trouble:
    if status in _KEYLESS:
        return Trouble.KEY
    if status in _BUSY:
        return Trouble.BUSY
    return Trouble.NOT_FOUND if status == _NOT_FOUND else Trouble.REFUSED


def _detail(response: httpx.Response) -> str:
    """What a problem document says (RFC 9457), or the status line where it is none."""
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code} {response.reason_phrase}"


def _each_address(url: str) -> list[tuple[str, dict[str, str]]]:
    """``url`` once for each address of its host, with the header that names the host."""
    parts = urlsplit(url)
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 80, family=socket.AF_INET, type=socket.SOCK_STREAM)
    except OSError:
        return [(url, {})]  # the request itself will tell what is wrong
    if parts.scheme != "http" or len(found) == 1:
        return [(url, {})]
    addresses = sorted({str(address[0]) for *_, address in found})
    return [
        (parts._replace(netloc=f"{address}:{parts.port or 80}").geturl(), {"Host": parts.netloc})
        for address in addresses
    ]
