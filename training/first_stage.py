"""The first stage of serving over a data set in files: its items as a catalogue, their vectors, and its fitted model.

What is to be found is held out as ``evaluate`` does it. The stages are those of ``core`` itself, so that a model is
shown what a worker would show it.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.catalogue_statistics import MIN_ITEMS, CatalogueCount
from core.collaborative import CollaborativeModel
from core.embedding import HashingEmbedder
from core.errors import ConfigurationError
from core.fitted_collaborative import FittedCollaborative
from core.item_versions import VersionFinder
from core.ports.arrays import Floats
from core.ports.collaborative import CollaborativeSource, FusionWeights
from core.ports.index import IndexRows, ItemIndex
from core.profile import build_profile
from core.question import PipelineConfig
from core.ranking import rank
from core.retrieval import retrieve
from core.splits import Interactions, Split
from models.catalogue import Item
from models.recommendation import Candidate
from training.baselines import Tell
from training.collaborative_fit import Matrix, content_rows
from training.evaluate import Ours, content_of_items, fit_ours, split_of, train_matrix
from training.fusion_choice import ItemSignals, candidates_of, choose_weights
from training.interaction_files import ItemTable, dataset_files, read_interactions, read_items
from training.tuning import fit, popularity_of
from training.validation import listeners_of
from training.weighing import weighed

_TITLES = ("title", "name", "track_name", "song_name", "item_name", "game_name", "artist_name", "artist")
_CREATORS = ("creator", "artist", "artists", "artist_name", "author", "developer")
_GENRES = ("genre", "genres", "track_genre", "tags", "tag")
_MOODS = ("mood", "moods")
_LANGUAGES = ("language", "lang")
_SEPARATORS = re.compile(r"[,;|]")
_MAX_TAGS = 5
_MAX_JUDGED = 300
_ITEMS_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A listener: ``likes`` (weights by item id, strongest first) are told, ``targets`` (item ids) are to be found."""

    likes: Mapping[int, float]
    targets: frozenset[int]


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """What is served from, and for whom; ``excluded`` ids are not to be found by anybody.

    The id of an item is its place among ``Interactions.item_ids``, counted from 1.
    """

    dataset: str
    protocol: str
    seed: int
    items: Mapping[int, Item]
    rows: IndexRows
    embedder_name: str
    fitted: FittedCollaborative
    listeners: Sequence[HeldOut]
    excluded: frozenset[int]


def prepare(
    dataset: Path,
    protocol: str,
    *,
    items: Path | None = None,
    n_users: int = 100,
    budget_s: float = 120.0,
    seed: int = 0,
    tell: Tell = lambda _: None,
) -> Study:
    """Fit on the training part, choose parameters and weights on a validation split of it, and pick ``n_users``.

    They are drawn by ``seed`` from those of whom something is held out; more of them are the same and further ones.
    Raises ``ConfigurationError``.
    """
    interactions, described = dataset_files(dataset, items)
    if described is None:
        raise ConfigurationError("a model is shown items by their names: give --items, or an items.csv")
    data, table = read_interactions(interactions), read_items(described)
    catalogue = items_of(table, data.item_ids)
    counts = content_of_items(data, described)
    split = split_of(data, protocol, seed)
    if not split.targets.any():
        raise ConfigurationError(f"{dataset}: too little data for protocol {protocol}, nobody is left to ask")
    # Nobody has cold items, so nothing about them is left to choose by.
    ours = fit_ours(
        data, split, "new" if protocol == "cold" else protocol, counts, budget_s=budget_s, seed=seed, tell=tell
    )
    embedder = _embedder(catalogue)
    vectors = _embedded(embedder, catalogue)
    popularity = np.log1p(popularity_of(train_matrix(data, split))).astype(np.float32)
    tell("choosing what each source weighs")
    weights = _fusion_weights(data, ours, counts, ItemSignals(vectors, popularity, _creators(catalogue)), seed, tell)
    return Study(
        dataset=dataset.resolve().name,
        protocol=protocol,
        seed=seed,
        items={item.item_id: item for item in catalogue},
        rows=_index_rows(catalogue, vectors, popularity / max(float(popularity.max(initial=0)), 1.0)),
        embedder_name=embedder.name,
        fitted=_fitted(ours.model, weights),
        listeners=_listeners(weighed(data, ours.weighing.asked), split, n_users, seed),
        excluded=_excluded(data, split, protocol),
    )


async def candidates_for(
    listener: HeldOut,
    study: Study,
    index: ItemIndex,
    source: CollaborativeSource,
    config: PipelineConfig,
    versions: VersionFinder,
    n: int,
) -> list[Candidate]:
    """The ``n`` that a worker would show the model, best first: retrieved, ranked and without versions of one work."""
    ids, vectors = await index.vectors(list(listener.likes))
    strengths = np.array([listener.likes[item_id] for item_id in ids.tolist()], np.float32)
    profile = build_profile(ids, vectors, strengths, config.profile)
    excluded = study.excluded | listener.likes.keys()
    retrieved = await retrieve(profile, index, config.overask * n, excluded, source, listener.likes)
    ranked = rank(retrieved, n + config.n_spare, config.ranking)
    owned = [study.items[item_id] for item_id in listener.likes]
    return versions.without_versions([each.candidate(study.items) for each in ranked], owned)[:n]


# --- the catalogue ---


def items_of(table: ItemTable, item_ids: Sequence[str]) -> list[Item]:
    """An item for each of ``item_ids``, in order and numbered from 1; one that the table lacks has no content.

    Columns are known by names that data sets use. Raises ``ConfigurationError`` where none is a title.
    """
    title = _column(table, _TITLES)
    if title is None:
        raise ConfigurationError(f"no column of the items is a title; known are {', '.join(_TITLES)}")
    places = {item_id: place for place, item_id in enumerate(table.item_ids)}
    creator = _column(table, [name for name in _CREATORS if name != title])
    tags = {part: _column(table, names) for part, names in (("genres", _GENRES), ("moods", _MOODS))}
    language = _column(table, _LANGUAGES)

    def cell(name: str | None, place: int) -> str:
        return table.texts[name][place] if name else ""

    def item(number: int, item_id: str) -> Item:
        place = places.get(item_id)
        if place is None:
            return Item(item_id=number, titles={"en": item_id})
        return Item(
            item_id=number,
            titles={"en": cell(title, place) or item_id},
            creator=cell(creator, place) or None,
            genres=_tags(cell(tags["genres"], place)),
            moods=_tags(cell(tags["moods"], place)),
            language=cell(language, place) or None,
            features={name: cells[place] for name, cells in table.numbers.items() if math.isfinite(cells[place])},
        )

    return [item(number, item_id) for number, item_id in enumerate(item_ids, 1)]


def _column(table: ItemTable, names: Sequence[str]) -> str | None:
    by_name = {column.casefold(): column for column in table.texts}
    return next((by_name[name] for name in names if name in by_name), None)


def _tags(cell: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in _SEPARATORS.split(cell) if part.strip()))[:_MAX_TAGS]


def _embedder(items: Sequence[Item]) -> HashingEmbedder:
    """As ``main.py embed`` has it."""
    if len(items) < MIN_ITEMS:
        return HashingEmbedder()
    counting = CatalogueCount()
    for start in range(0, len(items), _ITEMS_AT_ONCE):
        counting.add(items[start : start + _ITEMS_AT_ONCE])
    return HashingEmbedder.fitted(counting)


def _embedded(embedder: HashingEmbedder, items: Sequence[Item]) -> Floats:
    starts = range(0, len(items), _ITEMS_AT_ONCE)
    return np.concatenate([embedder.embed_now(items[start : start + _ITEMS_AT_ONCE]) for start in starts])


def _creators(items: Sequence[Item]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    numbers: dict[str, int] = {}
    named = [-1 if item.creator is None else numbers.setdefault(item.creator, len(numbers)) for item in items]
    return np.array(named, np.int64)


def _index_rows(items: Sequence[Item], vectors: Floats, popularity: Floats) -> IndexRows:
    return IndexRows(
        ids=np.array([item.item_id for item in items], np.int64),
        vectors=vectors,
        popularity=popularity.astype(np.float32),
        genres=[item.genres for item in items],
        moods=[item.moods for item in items],
        languages=[item.language for item in items],
        creators=[item.creator for item in items],
        version="study",
    )


# --- the model and the listeners ---


def _fitted(model: CollaborativeModel, weights: FusionWeights) -> FittedCollaborative:
    return FittedCollaborative(np.arange(1, len(model.item_vectors) + 1, dtype=np.int64), model, weights)


def _fusion_weights(
    data: Interactions, ours: Ours, counts: Matrix | None, signals: ItemSignals, seed: int, tell: Tell
) -> FusionWeights:
    """As ``main.py fit`` chooses them, on listeners of the training part."""
    content = None if counts is None else content_rows(counts)
    train = train_matrix(weighed(data, ours.weighing.train), ours.inner)
    model = fit(train, content, ours.parameters, seed=seed)
    asked = weighed(data, ours.weighing.asked)
    inputs, targets = listeners_of(asked, ours.inner, len(data.item_ids), _MAX_JUDGED)
    return choose_weights(list(candidates_of(model, inputs, signals)), targets, tell=tell)


def _listeners(data: Interactions, split: Split, n_users: int, seed: int) -> list[HeldOut]:
    inputs, targets = listeners_of(data, split, len(data.item_ids))
    found = []
    for row in np.random.default_rng(seed).permutation(inputs.n_rows)[:n_users].tolist():
        told, wanted = inputs.rows(row, row + 1), targets.rows(row, row + 1)
        strongest = np.argsort(-told.weights, kind="stable")
        likes = zip((told.items[strongest] + 1).tolist(), told.weights[strongest].tolist(), strict=True)
        found.append(HeldOut(dict(likes), frozenset((wanted.items + 1).tolist())))
    return found


def _excluded(data: Interactions, split: Split, protocol: str) -> frozenset[int]:
    """In protocol ``cold`` all that is not cold."""
    if protocol != "cold":
        return frozenset()
    cold = np.unique(data.items[split.targets]) + 1
    return frozenset(range(1, len(data.item_ids) + 1)) - frozenset(cold.tolist())
