"""A catalogue and listeners made up from a seed, for the demonstration, tests and benchmarks: no real song is in it.

The same seed makes the same songs and listeners, on every machine; a listener does not depend on how many others there
are.
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import numpy.typing as npt

from models.catalogue import Item
from models.source import SourceItem, SourceListener
from training.track_files import FEATURE_BOUNDS, Track, song_of

SOURCE = "generated"

_MAX_TRIES = 20
_SHARE_OF_TWO_GENRES = 0.2
_SHARE_WITH_PLAYLIST = 0.5

_Doubles = npt.NDArray[np.float64]

_FEATURES = ("danceability", "energy", "valence", "acousticness", "speechiness", "tempo", "loudness", "duration_ms")
# How far songs of one genre lie apart; artists keep to a part of that.
_SPREADS = (0.08, 0.10, 0.15, 0.12, 0.03, 14.0, 2.0, 25_000.0)
_GENRES: Mapping[str, tuple[float, ...]] = {
    "pop": (0.68, 0.65, 0.60, 0.20, 0.06, 115, -6, 200_000),
    "rock": (0.50, 0.82, 0.50, 0.05, 0.05, 130, -5, 235_000),
    "ballad": (0.42, 0.32, 0.28, 0.70, 0.04, 78, -10, 245_000),
    "hip hop": (0.78, 0.62, 0.50, 0.15, 0.26, 95, -6, 190_000),
    "r&b": (0.65, 0.48, 0.45, 0.35, 0.09, 92, -8, 215_000),
    "dance": (0.74, 0.88, 0.60, 0.04, 0.06, 126, -4, 185_000),
    "jazz": (0.52, 0.30, 0.50, 0.80, 0.05, 105, -14, 290_000),
    "folk": (0.50, 0.34, 0.48, 0.84, 0.04, 108, -12, 205_000),
    "metal": (0.38, 0.95, 0.28, 0.01, 0.09, 145, -4, 270_000),
    "anime": (0.55, 0.90, 0.65, 0.06, 0.07, 160, -4, 240_000),
}
_NEIGHBOURS = {"pop": "dance", "r&b": "hip hop", "rock": "metal", "folk": "ballad", "anime": "rock", "dance": "pop"}


@dataclass(frozen=True, slots=True)
class _Language:
    """How titles and names are made of words; ``share`` of the artists sing in it."""

    share: float
    openings: tuple[str, ...]
    endings: tuple[str, ...]
    names: tuple[str, ...]
    surnames: tuple[str, ...]
    joint: str


_LANGUAGES = (
    _Language(
        0.45,
        ("Golden", "Silent", "Paper", "Midnight", "Electric", "Broken", "Crystal", "Distant", "Burning", "Hollow"),
        ("Bridge", "Letters", "Morning", "Harbor", "Garden", "Satellite", "Highway", "Mirror", "River", "Lanterns"),
        ("Ada", "Milo", "Nora", "Theo", "Iris", "Felix", "Clara", "Jonas", "Vera", "Otis", "Ruby", "Silas"),
        ("Vale", "Marlowe", "Finch", "Harrow", "Lindqvist", "Okafor", "Reyes", "Stone", "Wilder", "Quill", "Sable"),
        " ",
    ),
    _Language(
        0.35,
        (
            "푸른",
            "작은",
            "오래된",
            "하얀",
            "따뜻한",
            "잊혀진",
            "반짝이는",
            "조용한",
            "머나먼",
            "낯선",
            "우리의",
            "그날의",
        ),
        (
            "바다",
            "편지",
            "계절",
            "별빛",
            "골목",
            "새벽",
            "우산",
            "정류장",
            "노래",
            "꽃잎",
            "달빛",
            "기차",
            "약속",
            "여름밤",
        ),
        ("하늘", "서연", "도윤", "지우", "은별", "민재", "소라", "태오", "가온", "나래"),
        ("밴드", "소년", "프로젝트", "하우스", "클럽", "사운드", "소녀", "극장", "산책", "은하", "구름", "라디오"),
        " ",
    ),
    _Language(
        0.20,
        ("青い", "遠い", "小さな", "真夜中の", "透明な", "雨の", "最後の", "夢見る", "ひとりの", "夏の"),
        (
            "約束",
            "手紙",
            "街角",
            "星空",
            "メロディー",
            "花火",
            "列車",
            "くちびる",
            "カーテン",
            "さくら",
            "流星",
            "海岸線",
        ),
        ("ハル", "ミナト", "ツバサ", "アオイ", "レン", "ソラ", "ヒカリ", "ナギ"),
        ("楽団", "少年", "計画", "放送", "倶楽部", "楼", "図書館", "旅行社", "天文台", "劇場"),
        "",
    ),
)


@dataclass(frozen=True, slots=True)
class _Artist:
    name: str
    language: _Language
    genre: str
    sound: _Doubles
    fame: float


def generate_songs(seed: int, n_songs: int = 2000, n_artists: int = 240) -> list[SourceItem]:
    """Made-up songs of made-up artists: every artist has a genre and a sound, and few of them are famous."""
    return list(songs_one_by_one(seed, n_songs, n_artists))


def songs_one_by_one(seed: int, n_songs: int, n_artists: int) -> Iterator[SourceItem]:
    """The same, each made up when it is asked for: a hundred thousand take seconds."""
    generator = np.random.default_rng([seed, 0])
    artists = _artists(generator, n_artists)
    shares = np.array([artist.fame + 0.1 for artist in artists])
    owners = generator.choice(n_artists, n_songs, p=shares / shares.sum())
    titles: list[set[str]] = [set() for _ in artists]
    for number, owner in enumerate(owners):
        yield _song(generator, number, artists[owner], titles[owner])


def _artists(generator: np.random.Generator, n: int) -> list[_Artist]:
    """``n`` artists of different names."""
    artists: dict[str, _Artist] = {}
    while len(artists) < n:
        language = _LANGUAGES[generator.choice(len(_LANGUAGES), p=[language.share for language in _LANGUAGES])]
        name = _unused(generator, language.names, language.surnames, language.joint, artists)
        genre = list(_GENRES)[generator.integers(len(_GENRES))]
        sound = np.array(_GENRES[genre]) + generator.normal(size=len(_FEATURES)) * _SPREADS
        artists[name] = _Artist(name, language, genre, sound, float(generator.beta(0.6, 3.0)))
    return list(artists.values())


def _song(generator: np.random.Generator, number: int, artist: _Artist, used_titles: set[str]) -> SourceItem:
    words = artist.language
    title = _unused(generator, words.openings, words.endings, words.joint, used_titles)
    used_titles.add(title)
    values = artist.sound + generator.normal(size=len(_FEATURES)) * np.array(_SPREADS) * 0.5
    track = Track(
        track_id=f"song-{number:06}",
        title=title,
        artists=(artist.name,),
        genre=artist.genre,
        features={name: _within(name, value) for name, value in zip(_FEATURES, values.tolist(), strict=True)},
        popularity=round(100 * artist.fame * float(generator.beta(1.5, 2.0)), 1),
    )
    return replace(song_of(track), genres=_genres(generator, artist.genre))


def _genres(generator: np.random.Generator, genre: str) -> tuple[str, ...]:
    """The artist's genre, and for some songs a neighbouring one beside it."""
    neighbour = _NEIGHBOURS.get(genre)
    return (genre, neighbour) if neighbour and generator.random() < _SHARE_OF_TWO_GENRES else (genre,)


def _within(name: str, value: float) -> float:
    low, high = FEATURE_BOUNDS[name]
    return round(min(max(value, low), high), 4)


def _unused(
    generator: np.random.Generator, first: Sequence[str], second: Sequence[str], joint: str, used: Container[str]
) -> str:
    """One word of each list, that together are not in ``used``; a number beside them where the lists are worn out."""
    for _ in range(_MAX_TRIES):
        text = joint.join([first[int(generator.integers(len(first)))], second[int(generator.integers(len(second)))]])
        if text not in used:
            return text
    return next(name for n in count(2) if (name := f"{text} {n}") not in used)


# --- listeners ---


def generate_listeners(
    items: Sequence[Item], n_listeners: int, seed: int, *, first_id: int = 1, min_likes: int = 5, max_likes: int = 20
) -> list[SourceListener]:
    """Made-up members who like items of a catalogue, made up or real.

    Each has one to three tastes; a taste is an item, the famous ones oftener, and draws its listener to items of the
    same artist, of the same genres, and of a like sound. About half of the members have a playlist too.
    """
    ids = range(first_id, first_id + n_listeners)
    return list(listeners_one_by_one(items, ids, seed, min_likes=min_likes, max_likes=max_likes))


def listeners_one_by_one(
    items: Sequence[Item], ids: Iterable[int], seed: int, *, min_likes: int = 5, max_likes: int = 20
) -> Iterator[SourceListener]:
    """The same, each made up when it is asked for: over a hundred thousand items one takes milliseconds."""
    if items:
        crowd = _Crowd(items)
        for each in ids:
            yield crowd.listener(each, seed, min_likes, max_likes)


class _Crowd:
    """The catalogue as arrays that tastes are drawn from: n items, in the order given."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._ids = np.array([item.item_id for item in items], np.int64)
        self._creators = np.array([item.creator or f"nobody {item.item_id}" for item in items])
        names = sorted({genre for item in items for genre in item.genres})
        self._genres = np.array([[name in item.genres for name in names] for item in items], bool)
        self._sounds = _standardised(items)
        self._weights = np.array([item.popularity for item in items]) + 0.05

    def listener(self, member_id: int, seed: int, min_likes: int, max_likes: int) -> SourceListener:
        generator = np.random.default_rng([seed, 1, member_id])
        n_likes = min(int(generator.integers(min_likes, max_likes + 1)), len(self._ids))
        tastes = self._draw(generator, self._weights, min(int(generator.integers(1, 4)), len(self._ids)))
        appeal = self._weights * np.sum([self._nearness(taste) for taste in tastes], axis=0)
        n_listed = int(generator.integers(3, 9)) if generator.random() < _SHARE_WITH_PLAYLIST else 0
        return SourceListener(
            member_id=member_id,
            liked_ids=self._named(self._draw(generator, appeal, n_likes)),
            playlist_ids=self._named(self._draw(generator, appeal, min(n_listed, len(self._ids)))),
        )

    def _draw(self, generator: np.random.Generator, weights: _Doubles, n: int) -> npt.NDArray[np.int64]:
        """``n`` different places, the likelier the greater their weight.

        By the Gumbel-max trick (Kool, van Hoof and Welling, "Stochastic beams and where to find them", 2019), which
        has no trouble with weights that are nearly 0.
        """
        keys = np.log(weights + 1e-12) + generator.gumbel(size=len(weights))
        return np.argsort(-keys, kind="stable")[:n]

    def _nearness(self, taste: np.int64) -> _Doubles:
        """How much each item appeals to one taste, (n,)."""
        same_creator = self._creators == self._creators[taste]
        shared = (self._genres & self._genres[taste]).any(axis=1)
        squared = np.sum((self._sounds - self._sounds[taste]) ** 2, axis=1)
        alike = np.exp(-squared / max(self._sounds.shape[1], 1))
        return np.asarray(8.0 * same_creator + alike * np.where(shared, 1.0, 0.02))

    def _named(self, places: npt.NDArray[np.int64]) -> tuple[int, ...]:
        return tuple(self._ids[places].tolist())


def _standardised(items: Sequence[Item]) -> _Doubles:
    """Numeric features with mean 0 and deviation 1, shape (n, n_features); what is missing counts as the mean."""
    names = sorted({name for item in items for name in item.features})
    values = np.array([[item.features.get(name, np.nan) for name in names] for item in items], np.float64)
    if not names:
        return np.zeros((len(items), 0))
    deviations = np.nanstd(values, axis=0)
    centred = (values - np.nanmean(values, axis=0)) / np.where(deviations > 0, deviations, 1.0)
    return np.asarray(np.nan_to_num(centred))
