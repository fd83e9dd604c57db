"""A client of the worker's HTTP API in one file, of the standard library alone (Python 3.11 or newer).

client = SongsAIClient("http://127.0.0.1:8000", api_key="...")
chosen = [found.item.item_id for found in client.search("사랑", limit=5).items]
for each in client.recommend(chosen, limit=10, locale="en").items:
    print(each.score, each.item.title("en"), "-", each.reason)

job_id = client.explain(chosen, locale="en")
for progress in client.follow(job_id):
    print(progress.status, progress.progress)
print(client.job(job_id).result)
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from math import inf
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

FIRST_PAUSE_S, MIN_PAUSE_S, MAX_PAUSE_S = 0.5, 0.01, 30.0
"""How long is waited before a stream that broke off is asked for again, unless it says so itself; it doubles."""

_ENDS = ("succeeded", "failed")
_BUSY = (429, 503)
_MAX_PAGE = 100
_Headers = Mapping[str, str]


class SongsAIProblem(Exception):
    """The worker refused: its problem document (RFC 9457). ``retry_after_s`` says when to come back, if it may help."""

    def __init__(self, status: int, document: Mapping[str, Any], retry_after_s: float | None) -> None:
        super().__init__(f"{status}: {document.get('detail', document.get('title', 'no reason given'))}")
        self.status = status
        self.document = document
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Item:
    """An item of the catalogue; ``popularity`` runs from 0 to 1."""

    item_id: int
    titles: Mapping[str, str]
    creator: str | None
    creator_local: str | None
    genres: Sequence[str]
    moods: Sequence[str]
    language: str | None
    popularity: float
    features: Mapping[str, float]

    def title(self, locale: str) -> str:
        """The title in ``locale``, else in any language."""
        return self.titles.get(locale) or next(iter(self.titles.values()), str(self.item_id))

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Item":
        """From JSON."""
        return cls(
            item_id=document["itemId"],
            titles=document["titles"],
            creator=document["creator"],
            creator_local=document["creatorLocal"],
            genres=document["genres"],
            moods=document["moods"],
            language=document["language"],
            popularity=document["popularity"],
            features=document["features"],
        )


@dataclass(frozen=True, slots=True)
class Found:
    """An item and how well it matches."""

    item: Item
    score: float


@dataclass(frozen=True, slots=True)
class Page:
    """Some of what was found, best first; ``next_offset`` is where the next page begins, None after the last one."""

    items: Sequence[Found]
    next_offset: int | None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Page":
        """From JSON."""
        found = [Found(Item.of(each["item"]), each["score"]) for each in document["items"]]
        return cls(found, document["nextOffset"])


@dataclass(frozen=True, slots=True)
class Recommended:
    """A recommended item; ``score`` runs from 0 to 100, ``evidence`` is what its reason follows from."""

    item: Item
    score: float
    type: str
    reason: str
    evidence: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The best items, best first, and the taste that they were chosen by.

    The order keeps variety, and a score is the item's own match: scores need not fall from item to item.
    """

    items: Sequence[Recommended]
    taste: Mapping[str, Any]
    seeds: Sequence[Item]


@dataclass(frozen=True, slots=True)
class Progress:
    """A change of a job."""

    status: str
    progress: int
    error: Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class JobState:
    """How a job stands; ``result`` once it succeeded."""

    job_id: str
    status: str
    progress: int
    error: Mapping[str, str] | None
    result: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Event:
    """What a member did: ``like``, ``unlike``, ``dislike``, ``play``, ``skip``, ``repeat``, ``rating``...

    With an ``event_id`` of yours the same event may be sent again: it counts once.
    """

    member_id: int
    type: str
    item_id: int | None = None
    event_id: str | None = None
    value: float | None = None
    completed: bool | None = None
    occurred_at: str | None = None

    def document(self) -> dict[str, object]:
        """As JSON."""
        told = {
            "eventId": self.event_id,
            "memberId": self.member_id,
            "itemId": self.item_id,
            "type": self.type,
            "value": self.value,
            "completed": self.completed,
            "occurredAt": self.occurred_at,
        }
        return {name: value for name, value in told.items() if value is not None}


@dataclass(frozen=True, slots=True)
class SongsAIClient:
    """Asks a worker. Every method raises ``SongsAIProblem``, and ``OSError`` where nobody answers in ``timeout_s``."""

    base_url: str
    api_key: str = field(default="", repr=False)
    timeout_s: float = 30.0

    def search(self, text: str, *, limit: int = 20, offset: int = 0) -> Page:
        """Items whose names are like ``text``, best first."""
        return Page.of(self._get("/search", q=text, limit=limit, offset=offset))

    def search_all(self, text: str) -> Iterator[Found]:
        """All that a search finds, best first; the next page is asked for when the one before it is used up."""
        offset: int | None = 0
        while offset is not None:
            page = self.search(text, limit=_MAX_PAGE, offset=offset)
            yield from page.items
            offset = page.next_offset

    def item(self, item_id: int) -> Item:
        """One item."""
        return Item.of(self._get(f"/items/{item_id}"))

    def similar(self, item_id: int, *, limit: int = 20, offset: int = 0) -> Page:
        """The items most like it, most alike first."""
        return Page.of(self._get(f"/items/{item_id}/similar", limit=limit, offset=offset))

    def recommend(
        self,
        item_ids: Sequence[int],
        *,
        limit: int = 20,
        locale: str | None = None,
        wish: str | None = None,
        disliked_ids: Sequence[int] = (),
    ) -> Recommendation:
        """What is like 3 to 10 chosen items, and unlike those disliked, at once and without a language model."""
        body = {**_asked(item_ids, limit, locale, wish), "dislikedIds": list(disliked_ids)}
        answer = self._post("/recommend/seeds", body)
        return Recommendation(
            items=[
                Recommended(Item.of(each["item"]), each["score"], each["type"], each["reason"], each["evidence"])
                for each in answer["items"]
            ],
            taste=answer["taste"],
            seeds=[Item.of(each) for each in answer["seeds"]],
        )

    def explain(
        self,
        item_ids: Sequence[int],
        *,
        limit: int = 20,
        locale: str | None = None,
        wish: str | None = None,
        member_id: int | None = None,
    ) -> str:
        """The same as a job, which asks the language model too; its id."""
        body = {**_asked(item_ids, limit, locale, wish), "explain": True, "memberId": member_id}
        return str(self._post("/recommend/seeds", body)["jobId"])

    def recommend_for(self, member_id: int, item_ids: Sequence[int] = (), *, locale: str | None = None) -> str | None:
        """A job of a member's likes; its id, or None where a fresh list of exactly these likes is kept.

        With a ``locale``, only a list in that language is.
        """
        body = {"memberId": member_id, "favorite_song_ids": list(item_ids), "locale": locale}
        answer = self._post("/recommend", body)
        return str(answer["jobId"]) if answer["jobId"] else None

    def recommendations(self, member_id: int, *, limit: int = 50, offset: int = 0) -> Mapping[str, Any]:
        """The newest list that is kept for a member: groups, and a page of the candidates."""
        return self._get(f"/members/{member_id}/recommendations", limit=limit, offset=offset)

    def job(self, job_id: str) -> JobState:
        """How a job stands."""
        found = self._get(f"/jobs/{quote(job_id, safe='')}")
        return JobState(job_id, found["status"], found["progress"], found["error"], found["result"])

    def follow(self, job_id: str, *, within_s: float = 600.0) -> Iterator[Progress]:
        """Each change of a job until it has ended, as it happens.

        A stream that breaks off goes on where it was, after a pause. Raises ``TimeoutError`` where the job has not
        ended ``within_s``, which is looked at with all that comes, and after ``timeout_s`` in which nothing does.
        """
        watch = _Watch(time.monotonic() + within_s)
        while True:
            for progress in self._changes(job_id, watch):
                yield progress
                if progress.status in _ENDS:
                    return
            watch.pause(job_id)

    def _changes(self, job_id: str, watch: "_Watch") -> Iterator[Progress]:
        """Those of one stream, until it ends or breaks off; what goes wrong before the first stream is raised."""
        path = f"/jobs/{quote(job_id, safe='')}/events"
        try:
            with self._open("GET", path, None, watch.headers(), watch.left_s()) as stream:
                watch.has_begun = True
                for fields in _events(stream):
                    if progress := watch.seen(fields):
                        yield progress
                    if watch.left_s() <= 0:
                        return
        except SongsAIProblem as problem:
            if not watch.has_begun or problem.status not in _BUSY:
                raise
            watch.asked_to_wait_s = problem.retry_after_s
        except (OSError, HTTPException):
            if not watch.has_begun:
                raise

    def tell(self, events: Sequence[Event]) -> list[str]:
        """Tell what members did; the ids of the events, which are safe on the queue by then."""
        answer = self._post("/events", {"events": [event.document() for event in events]})
        return list(answer["eventIds"])

    def _get(self, path: str, **query: object) -> Mapping[str, Any]:
        return self._read("GET", f"{path}?{urlencode(query)}" if query else path, None, {})

    def _post(self, path: str, body: Mapping[str, object]) -> Mapping[str, Any]:
        return self._read("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _read(self, method: str, path: str, body: bytes | None, headers: _Headers) -> Mapping[str, Any]:
        try:
            with self._open(method, path, body, headers) as answer:
                return dict(json.load(answer))
        except HTTPException as error:
            raise ConnectionError(f"the answer broke off: {error!r}") from error

    def _open(self, method: str, path: str, body: bytes | None, headers: _Headers, most_s: float = inf) -> Any:  # noqa: ANN401
        key = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        url = self.base_url.rstrip("/") + path
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"base_url must begin with http:// or https://: {self.base_url!r}")
        request = Request(url, body, {**headers, **key}, method=method)  # noqa: S310 - its scheme was looked at
        try:
            return urlopen(request, timeout=max(min(self.timeout_s, most_s), MIN_PAUSE_S))  # noqa: S310 - see above
        except HTTPError as error:
            with error:
                raise _problem(error) from None
        except HTTPException as error:
            raise ConnectionError(f"no answer of an HTTP server: {error!r}") from error


def _asked(item_ids: Sequence[int], limit: int, locale: str | None, wish: str | None) -> dict[str, object]:
    return {"itemIds": list(item_ids), "limit": limit, "locale": locale, "wish": wish}


@dataclass(slots=True)
class _Watch:
    """What is known of a job that is followed, through all its streams."""

    ends_at_s: float
    has_begun: bool = False
    last_id: str = ""
    retry_s: float = FIRST_PAUSE_S
    n_in_vain: int = 0
    asked_to_wait_s: float | None = None

    def left_s(self) -> float:
        return self.ends_at_s - time.monotonic()

    def headers(self) -> dict[str, str]:
        return {"Last-Event-ID": self.last_id} if self.last_id else {}

    def seen(self, fields: Mapping[str, str]) -> Progress | None:
        """What an event tells, or None where it only says something of the stream, or that it lives."""
        if fields.get("retry", "").isdigit():
            self.retry_s = max(int(fields["retry"]) / 1000, MIN_PAUSE_S)
        self.last_id = fields.get("id", self.last_id)
        if "data" not in fields:
            return None
        self.n_in_vain = 0
        told = json.loads(fields["data"])
        return Progress(told["status"], told["progress"], told["error"])

    def pause(self, job_id: str) -> None:
        """Longer each time that nothing new came between; raises ``TimeoutError`` where no time is left."""
        backed_off_s = min(self.retry_s * 2**self.n_in_vain, max(MAX_PAUSE_S, self.retry_s))
        wait_s = max(backed_off_s, self.asked_to_wait_s or 0)
        if wait_s >= self.left_s():
            raise TimeoutError(f"job {job_id} has not ended in the time that was given")
        time.sleep(wait_s)
        self.n_in_vain, self.asked_to_wait_s = min(self.n_in_vain + 1, 10), None


def _events(stream: Any) -> Iterator[Mapping[str, str]]:  # noqa: ANN401 - what urlopen gives has no better type
    """Server-sent events by their fields (WHATWG HTML, 9.2.6), empty for a heartbeat; half an event is none."""
    fields: dict[str, str] = {}
    for line in stream:
        name, _, value = line.decode().rstrip("\r\n").partition(":")
        if name:
            value = value.removeprefix(" ")
            fields[name] = f"{fields['data']}\n{value}" if name == "data" and name in fields else value
        elif not line.strip():
            yield fields
            fields = {}


def _problem(error: HTTPError) -> SongsAIProblem:
    try:
        document = json.loads(error.read())
    except (ValueError, OSError, HTTPException):
        document = {}
    wait = error.headers.get("Retry-After", "")
    told = document if isinstance(document, dict) else {}
    return SongsAIProblem(error.code, told, float(wait) if wait.isdigit() else None)
