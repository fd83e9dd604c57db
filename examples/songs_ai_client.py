"""A client of the worker's HTTP API in one file, of the standard library alone (Python 3.11 or newer).

client = SongsAIClient("http://127.0.0.1:8000", api_key="...")
chosen = [found.item.item_id for found in client.search("ㅂㅌㅂㅌ")][:5]
for each in client.recommend(chosen, limit=10, locale="en").items:
    print(each.score, each.item.title("en"), "-", each.reason)

job_id = client.explain(chosen, locale="en")
for progress in client.follow(job_id):
    print(progress.status, progress.progress)
print(client.job(job_id).result)
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

_ENDS = ("succeeded", "failed")


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
class Recommended:
    """A recommended item; ``score`` runs from 0 to 100, ``evidence`` is what its reason follows from."""

    item: Item
    score: float
    type: str
    reason: str
    evidence: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The best items, best first, and the taste that they were chosen by."""

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

    def search(self, text: str, *, limit: int = 20, offset: int = 0) -> list[Found]:
        """Items whose names are like ``text``, best first."""
        page = self._get("/search", q=text, limit=limit, offset=offset)
        return [Found(Item.of(each["item"]), each["score"]) for each in page["items"]]

    def item(self, item_id: int) -> Item:
        """One item."""
        return Item.of(self._get(f"/items/{item_id}"))

    def similar(self, item_id: int, *, n: int = 20) -> list[Found]:
        """The items most like it, most alike first."""
        found = self._get(f"/items/{item_id}/similar", n=n)
        return [Found(Item.of(each["item"]), each["score"]) for each in found["items"]]

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

    def recommend_for(self, member_id: int, item_ids: Sequence[int] = ()) -> str | None:
        """A job of a member's likes; its id, or None where a fresh list of exactly these likes is kept."""
        answer = self._post("/recommend", {"memberId": member_id, "favorite_song_ids": list(item_ids)})
        return str(answer["jobId"]) if answer["jobId"] else None

    def recommendations(self, member_id: int, *, limit: int = 50, offset: int = 0) -> Mapping[str, Any]:
        """The newest list that is kept for a member: groups, and a page of the candidates."""
        return self._get(f"/members/{member_id}/recommendations", limit=limit, offset=offset)

    def job(self, job_id: str) -> JobState:
        """How a job stands."""
        found = self._get(f"/jobs/{quote(job_id, safe='')}")
        return JobState(job_id, found["status"], found["progress"], found["error"], found["result"])

    def follow(self, job_id: str) -> Iterator[Progress]:
        """Each change of a job until it has ended, as it happens."""
        last = ""
        while True:
            headers = {"Last-Event-ID": last} if last else {}
            with self._open("GET", f"/jobs/{quote(job_id, safe='')}/events", None, headers) as stream:
                for name, value in _lines(stream):
                    if name == "id":
                        last = value
                    elif name == "data":
                        told = json.loads(value)
                        yield Progress(told["status"], told["progress"], told["error"])
                        if told["status"] in _ENDS:
                            return

    def tell(self, events: Sequence[Event]) -> list[str]:
        """Tell what members did; the ids of the events, which are safe on the queue by then."""
        answer = self._post("/events", {"events": [event.document() for event in events]})
        return list(answer["eventIds"])

    def _get(self, path: str, **query: object) -> Mapping[str, Any]:
        with self._open("GET", f"{path}?{urlencode(query)}" if query else path, None, {}) as answer:
            return dict(json.load(answer))

    def _post(self, path: str, body: Mapping[str, object]) -> Mapping[str, Any]:
        with self._open("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"}) as answer:
            return dict(json.load(answer))

    def _open(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Any:  # noqa: ANN401
        key = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        url = self.base_url.rstrip("/") + path
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"base_url must begin with http:// or https://: {self.base_url!r}")
        request = Request(url, body, {**headers, **key}, method=method)  # noqa: S310 - its scheme was looked at
        try:
            return urlopen(request, timeout=self.timeout_s)  # noqa: S310 - see above
        except HTTPError as error:
            with error:
                raise _problem(error) from None


def _asked(item_ids: Sequence[int], limit: int, locale: str | None, wish: str | None) -> dict[str, object]:
    return {"itemIds": list(item_ids), "limit": limit, "locale": locale, "wish": wish}


def _lines(stream: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - what urlopen gives has no better type
    """The fields of a stream of server-sent events; heartbeats have an empty name."""
    for line in stream:
        name, _, value = line.decode().rstrip("\r\n").partition(":")
        yield name, value.removeprefix(" ")


def _problem(error: HTTPError) -> SongsAIProblem:
    try:
        document = json.loads(error.read())
    except ValueError:
        document = {}
    wait = error.headers.get("Retry-After", "")
    told = document if isinstance(document, dict) else {}
    return SongsAIProblem(error.code, told, float(wait) if wait.isdigit() else None)
