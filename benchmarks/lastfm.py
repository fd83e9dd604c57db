"""The splits of the Last.fm data as matrices, with the tags that do not give the answer away."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from core.collaborative import Indices, Likes
from core.splits import Interactions, hold_out_per_user, hold_out_users
from training.collaborative_fit import Matrix, content_rows, likes_of

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Split:
    """Training users, and listeners with what is given of them and what is to be found."""

    interactions: Matrix
    content: Matrix
    inputs: Likes
    targets: Likes


Line = tuple[str, str, str]


def load(data: Path, protocol: str) -> Split:
    """Protocol ``S`` (new listeners) or ``W`` (known ones), as it is tested."""
    lines = list(_table(data / "splits" / f"lastfm.{protocol}.seed0.tsv"))
    return _split(data, protocol, [(user, item, part) for user, item, part, _ in lines], set())


def load_inner(data: Path, protocol: str, n_folds: int) -> list[Split]:
    """The training part split once more: by the file's ``inner``, and as often again by chance in the same way.

    One inner split of S has but 300 listeners, too few to choose by.
    """
    lines = list(_table(data / "splits" / f"lastfm.{protocol}.seed0.tsv"))
    hidden = {(user, item) for user, item, part, _ in lines if part == "test"}
    names = {"fit": "train", "vin": "input", "val": "test"}
    given: list[Line] = [(user, item, names[inner]) for user, item, part, inner in lines if part == "train"]
    pairs = [(user, item) for user, item, _ in given]
    folds = [given, *(_fold(pairs, protocol, seed) for seed in range(1, n_folds))]
    return [_split(data, protocol, fold, hidden) for fold in folds]


def _fold(pairs: list[Pair], protocol: str, seed: int) -> list[Line]:
    user_ids, item_ids = sorted({user for user, _ in pairs}), sorted({item for _, item in pairs})
    user_places, item_places = ({name: place for place, name in enumerate(names)} for names in (user_ids, item_ids))
    users = np.array([user_places[user] for user, _ in pairs], np.int64)
    items = np.array([item_places[item] for _, item in pairs], np.int64)
    whole = Interactions(users, items, np.ones(len(users)), None, user_ids, item_ids)
    split = (hold_out_users if protocol == "S" else hold_out_per_user)(whole, seed=seed)
    parts = np.where(split.targets, "test", np.where(split.train, "train", "input"))
    return [(user, item, str(part)) for (user, item), part in zip(pairs, parts, strict=True)]


def _split(data: Path, protocol: str, lines: list[Line], hidden: set[Pair]) -> Split:
    items = sorted({line[1] for line in lines})
    train = [(user, item) for user, item, part in lines if part == "train"]
    tests = [(user, item) for user, item, part in lines if part == "test"]
    inputs = [(user, item) for user, item, part in lines if part == "input"] or train
    # a tag is an act of the listener: those of the pairs to be found, or of new listeners, tell what they play
    hidden = hidden.union(tests)
    hidden_users = {user for user, _ in hidden} if protocol == "S" else set()
    tags = [tag for tag in _tags(data) if tag[0] not in hidden_users and tag[:2] not in hidden]
    listeners = sorted({user for user, _ in tests})
    return Split(
        _matrix(train, sorted({user for user, _ in train}), items),
        content_rows(tag_counts(tags, items)),
        likes_of(_matrix(inputs, listeners, items)),
        likes_of(_matrix(tests, listeners, items)),
    )


@dataclass(frozen=True, slots=True)
class ColdSplit:
    """All listeners' warm items to train on, and their cold ones to be found among the cold by tags.

    ``counts`` (n_items, n_tags) says how often each tag was given, by anybody.
    """

    interactions: Matrix
    counts: Matrix
    targets: Likes
    cold: Indices


def load_cold(data: Path, seed: int | None = None) -> ColdSplit:
    """Every pair whose item is cold is a target; ``interactions`` hold the others.

    With a seed, a fresh split of the same kind within the warm items, whose test part was never used: items that are
    cold in the file are left out of it.
    """
    kind = dict(line[:2] for line in _table(data / "splits" / "lastfm.COLD.seed0.tsv"))
    pairs = [(user, item) for user, item, *_ in _table(data / "splits" / "lastfm.W.seed0.tsv")]
    if seed is not None:
        warm_items = sorted(item for item in kind if kind[item] == "warm")
        n_cold = round(len(warm_items) * (1 - len(warm_items) / len(kind)))
        drawn = set(np.random.default_rng(seed).choice(warm_items, n_cold, replace=False).tolist())
        kind = {item: "cold" if item in drawn else "warm" for item in warm_items}
    items, users = sorted(kind), sorted({user for user, _ in pairs})
    warm = [pair for pair in pairs if kind.get(pair[1]) == "warm"]
    cold = [pair for pair in pairs if kind.get(pair[1]) == "cold"]
    return ColdSplit(
        _matrix(warm, users, items),
        tag_counts(list(_tags(data)), items),
        likes_of(_matrix(cold, users, items)),
        np.array([index for index, item in enumerate(items) if kind[item] == "cold"], np.int64),
    )


def tag_counts(tags: Iterable[tuple[str, str, str]], items: list[str]) -> Matrix:
    """How often each tag was given to each item, (n_items, n_tags)."""
    place = {item: index for index, item in enumerate(items)}
    counts = Counter((place[item], tag) for _, item, tag in tags if item in place)
    names = {tag: index for index, tag in enumerate(sorted({tag for _, tag in counts}))}
    rows, columns = [row for row, _ in counts], [names[tag] for _, tag in counts]
    return sp.csr_array((np.array(list(counts.values()), np.float32), (rows, columns)), shape=(len(items), len(names)))


def _matrix(pairs: list[Pair], users: list[str], items: list[str]) -> Matrix:
    user_places, item_places = ({name: place for place, name in enumerate(names)} for names in (users, items))
    kept = [pair for pair in pairs if pair[0] in user_places]
    rows, columns = [user_places[user] for user, _ in kept], [item_places[item] for _, item in kept]
    return sp.csr_array((np.ones(len(kept), np.float32), (rows, columns)), shape=(len(users), len(items)))


def _tags(data: Path) -> Iterator[tuple[str, str, str]]:
    yield from ((line[0], line[1], line[2]) for line in _table(data / "lastfm_user_taggedartists.dat"))


def _table(path: Path) -> Iterator[list[str]]:
    with path.open(encoding="utf-8", errors="replace", newline="") as lines:
        for line in csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
            if line and line[0].isdigit():
                yield line
