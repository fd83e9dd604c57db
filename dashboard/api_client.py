"""The API as the pages ask it: HTTP, and nothing else of the program that they show."""

import socket
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, cast
from urllib.parse import urlsplit

import httpx

from dashboard.shapes import (
    Catalogue,
    CatalogueMap,
    DeadLetters,
    Found,
    Health,
    Item,
    Job,
    Member,
    Models,
    SeedsAnswer,
)

TIMEOUT_S = 20.0
_UNPROCESSABLE, _BUSY, _NOT_FOUND = 422, frozenset({429, 503}), 404
_KEYLESS = frozenset({401, 403})
_REFUSED_FROM = 400


class Trouble(StrEnum):
    """What people can do about a request that failed."""

    UNREACHABLE = "unreachable"
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

    ``metrics_url``: where workers tell their metrics; each address of its host is asked.
    """

    def __init__(self, url: str, *, key: str = "", metrics_url: str = "") -> None:
        headers = {"X-API-Key": key} if key else {}
        self.url = url.rstrip("/")
        self._metrics_url = metrics_url or f"{self.url}/metrics"
        self._client = httpx.Client(base_url=self.url, headers=headers, timeout=TIMEOUT_S)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    # --- the catalogue ---

    def search(self, text: str, limit: int) -> list[Found]:
        """What is called like ``text``, best first."""
        return cast("list[Found]", self._get("/search", q=text, limit=limit)["items"])

    def item(self, item_id: int) -> Item:
        """One item."""
        return cast("Item", self._get(f"/items/{item_id}"))

    def similar(self, item_id: int, n: int) -> list[Found]:
        """What is most like one."""
        return cast("list[Found]", self._get(f"/items/{item_id}/similar", n=n)["items"])

    def catalogue(self) -> Catalogue:
        """How much there is of what."""
        return cast("Catalogue", self._get("/catalogue"))

    def catalogue_map(self, n: int) -> CatalogueMap:
        """``n`` items at their places."""
        return cast("CatalogueMap", self._get("/catalogue/map", n=n))

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
        return cast("SeedsAnswer", self._post("/recommend/seeds", {**body, "wish": wish or None}))

    def explain(self, item_ids: Sequence[int], *, member_id: int, limit: int, locale: str, wish: str) -> str:
        """The id of a job that makes that list for ``member_id``, with a language model where there is one."""
        body = {"itemIds": list(item_ids), "memberId": member_id, "limit": limit, "locale": locale}
        return str(self._post("/recommend/seeds", {**body, "wish": wish or None, "explain": True})["jobId"])

    def recommend(self, member_id: int) -> str | None:
        """The id of a job that makes a new list for a member; None where a fresh one is there."""
        found: str | None = self._post("/recommend", {"memberId": member_id})["jobId"]
        return found

    def job(self, job_id: str) -> Job:
        """How a job stands."""
        return cast("Job", self._get(f"/jobs/{job_id}"))

    def tell(self, member_id: int, kind: str, item_ids: Sequence[int]) -> None:
        """Events of that kind, one an item."""
        events = [{"memberId": member_id, "itemId": item_id, "type": kind} for item_id in item_ids]
        self._post("/events", {"events": events})

    # --- members and models ---

    def active_members(self, limit: int) -> list[int]:
        """Who liked something last."""
        return cast("list[int]", self._get("/members/active", limit=limit)["memberIds"])

    def member(self, member_id: int) -> Member:
        """What is known of one."""
        return cast("Member", self._get(f"/members/{member_id}"))

    def models(self) -> Models:
        """The versions of the fitted models."""
        return cast("Models", self._get("/models"))

    # --- operations ---

    def health(self) -> Health:
        """How the dependencies stand; where one is away this still answers."""
        return cast("Health", self._read(self._answer("GET", "/health", may_be_unavailable=True)))

    def metrics(self) -> list[str]:
        """The exposition of every process at ``metrics_url``."""
        return [self._answer("GET", url, headers=headers).text for url, headers in _each_address(self._metrics_url)]

    def dead_letters(self, limit: int) -> DeadLetters:
        """The oldest jobs that were given up."""
        return cast("DeadLetters", self._get("/dead-letters", limit=limit))

    def replay(self, letter_ids: Sequence[str]) -> dict[str, str]:
        """Send them back to work; what became of each."""
        return cast("dict[str, str]", self._post("/dead-letters/replay", {"letterIds": list(letter_ids)})["fates"])

    # --- HTTP ---

    def _get(self, path: str, **asked: str | int) -> Any:  # noqa: ANN401 - JSON
        return self._read(self._answer("GET", path, params=asked))

    def _post(self, path: str, body: Mapping[str, object]) -> Any:  # noqa: ANN401 - JSON
        return self._read(self._answer("POST", path, json=body))

    def _read(self, response: httpx.Response) -> Any:  # noqa: ANN401 - JSON
        """What another server, or a page of a proxy, answers in place of the API is no JSON."""
        try:
            return response.json()
        except ValueError as error:
            raise ApiProblem(Trouble.UNREACHABLE, f"{self.url}: its answer is not the API's") from error

    def _answer(self, method: str, url: str, *, may_be_unavailable: bool = False, **options: Any) -> httpx.Response:  # noqa: ANN401 - httpx's
        try:
            response = self._client.request(method, url, **options)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ApiProblem(Trouble.UNREACHABLE, f"{self.url}: {error or type(error).__name__}") from error
        if response.status_code < _REFUSED_FROM or (may_be_unavailable and response.status_code in _BUSY):
            return response
        raise ApiProblem(_trouble(response.status_code), _detail(response))


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
