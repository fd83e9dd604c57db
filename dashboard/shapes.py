"""What the API answers, as far as the pages read it (its OpenAPI document has all of it)."""

from typing import NotRequired, TypedDict


class Item(TypedDict):
    """An item of the catalogue; ``features`` are its audio features by name."""

    itemId: int
    titles: dict[str, str]
    creator: str | None
    creatorLocal: str | None
    genres: list[str]
    moods: list[str]
    language: str | None
    popularity: float
    features: dict[str, float]


class Found(TypedDict):
    """An item that was searched for, or that is like another."""

    item: Item
    score: float


class FoundItems(TypedDict):
    """What was found."""

    items: list[Found]


class Evidence(TypedDict):
    """What speaks for a recommended item; ``near`` are ids of chosen ones, ``sources`` what found it."""

    similarity: float
    near: list[int]
    sources: list[str]


class Recommended(TypedDict):
    """A recommended item; ``score`` runs from 0 to 100. Of kept ones ``criteria`` tell what ``evidence`` does else."""

    item: Item
    score: float
    type: str
    reason: str
    evidence: NotRequired[Evidence]
    criteria: NotRequired[list[str]]


class Taste(TypedDict):
    """What chosen items have in common."""

    summary: str


class SeedsAnswer(TypedDict):
    """A list made of chosen items."""

    items: list[Recommended]
    taste: Taste


class Asked(TypedDict):
    """That a job was asked for; its id is None where a fresh result is there."""

    jobId: str | None


class Liked(TypedDict):
    """An item that a member likes; ``since`` is an ISO instant."""

    item: Item
    weight: float
    since: str | None


class KeptList(TypedDict):
    """A member's newest recommendation; ``locale`` is the language of its sentences, empty where it is not known."""

    items: list[Recommended]
    generatedDate: str
    provisional: bool
    fingerprint: str
    locale: str


class Active(TypedDict):
    """Members, who liked something last first."""

    memberIds: list[int]


class Member(TypedDict):
    """What is known of a member."""

    memberId: int
    likes: list[Liked]
    disliked: list[Item]
    newest: KeptList | None


class Count(TypedDict):
    """How many items have a name as genre or creator."""

    name: str
    items: int


class Catalogue(TypedDict):
    """The whole catalogue, counted."""

    nItems: int
    genres: list[Count]
    creators: list[Count]
    popularity: list[int]
    popular: list[Item]


class Point(TypedDict):
    """An item at its place of the map."""

    itemId: int
    titles: dict[str, str]
    creator: str
    creatorLocal: str | None
    genre: str | None
    x: float
    y: float


class CatalogueMap(TypedDict):
    """The embeddings in two dimensions, and the share of the variance that each tells."""

    points: list[Point]
    explained: list[float]


class Version(TypedDict):
    """A version of a fitted model."""

    kind: str
    version: str
    createdAt: str
    active: bool
    previous: bool
    nBytes: int
    metrics: dict[str, float]
    dataUntil: str | None


class Promotion(TypedDict):
    """That a version was put in force."""

    kind: str
    version: str
    replaced: str | None
    cause: str
    reason: str
    promotedAt: str


class Models(TypedDict):
    """All versions, newest first, and promotions, oldest first."""

    versions: list[Version]
    promotions: list[Promotion]


class DeadLetter(TypedDict):
    """A job that was given up."""

    letterId: str
    memberId: int | None
    reason: str
    code: str
    error: str
    nTries: int
    nReplays: int
    ageS: float | None


class DeadLetters(TypedDict):
    """The oldest of them, and how many there are together."""

    letters: list[DeadLetter]
    n: int


class Replayed(TypedDict):
    """What became of each dead letter that was found, by id."""

    fates: dict[str, str]


class Check(TypedDict):
    """How one dependency stands."""

    status: str
    reason: str | None
    latency_ms: float


class Health(TypedDict):
    """How all of them stand."""

    status: str
    checks: dict[str, Check]


class JobResult(TypedDict):
    """What a job made, with the fields that the catalogue's own backend reads; the best first."""

    candidates: list[dict[str, object]]


class Job(TypedDict):
    """How a job stands; ``progress`` runs from 0 to 100, and ``result`` is there once it succeeded."""

    jobId: str
    status: str
    progress: int
    error: dict[str, str] | None
    result: JobResult | None
