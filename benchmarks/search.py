"""Search by name: how long it takes at a given size, what comes first, and how often a slip of the finger is forgiven.

    .venv/bin/python -m benchmarks.search [--tracks songs.csv] [--size 100000] [--queries 600]

Songs of the file, with a third of the rest each made up of Hangul syllables, of kana and of Latin letters, from one
seed, and a dozen that are well known. Times are of one search after another on one thread, of titles as they are, with
a slip, and in initial consonants. A slip is one letter (of Hangul: one jamo of a syllable) left out, doubled, replaced
or swapped with the next. "found" is how often the song, or one of the same title, is among the first three; of parts of
a title (a run of one to three characters, in Latin letters a word; the first letters of a later word), which many have
in common, how often what comes first has it in a name.
"""

import argparse
import csv
import random
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from core.search_match import Names
from core.search_text import folded, initials_of
from models.catalogue import Item
from services.search_index import NameIndex

SPELLINGS = ("title_yomi",)
N_FIRST = 3
CHUNK = 2000
console = Console(width=150)

KNOWN = (
    ({"ko": "비틀비틀 짝짜꿍"}, "최예나", "YENA", None),
    ({"ko": "밤편지", "en": "Through the Night"}, "IU", "아이유", None),
    ({"ko": "좋은 날", "en": "Good Day"}, "IU", "아이유", None),
    ({"ko": "봄날", "en": "Spring Day"}, "BTS", "방탄소년단", None),
    ({"ko": "사랑했지만"}, "김광석", None, None),
    ({"ja": "夜に駆ける", "en": "Racing into the Night"}, "YOASOBI", "요아소비", "よるにかける"),
    ({"ja": "千本桜"}, "黒うさP", None, "せんぼんざくら"),
    ({"ja": "ガラスを割れ!"}, "欅坂46", None, "がらすをわれ"),
    ({"ja": "ドライフラワー"}, "優里", None, "どらいふらわー"),
    ({"en": "Halo"}, "Beyoncé", "비욘세", None),
    ({"en": "Hoppípolla"}, "Sigur Rós", None, None),
    ({"en": "Smells Like Teen Spirit"}, "Nirvana", "너바나", None),
)
ASKED = (
    ("Hangul", "비틀비틀"), ("Hangul", "좋은날"), ("Hangul", "아이유 밤편지"), ("Hangul, half typed", "사랑해ㅆ"),
    ("initials", "ㅂㅌㅂㅌ"), ("initials", "ㅅㄹㅎㅈㅁ"), ("initials", "ㅂㅌㅅㄴㄷ"), ("mixed", "밤ㅍㅈ"),
    ("kana", "ドライフラワー"), ("kana, folded", "どらいふらわー"), ("kana, yomi", "よるにかける"), ("kanji", "千本"),
    ("romaji", "doraifurawa"), ("romanised Hangul", "bampyeonji"), ("Latin", "halo beyonce"), ("Latin", "hoppipolla"),
    ("Latin", "sigur ros"), ("typo", "smels like teen sprit"), ("typo", "byeonce"), ("typo, one jamo", "밤펀지"),
    ("inside", "桜"), ("inside", "駆ける"), ("inside", "편지"), ("later word", "짝"), ("later word", "tee"),
    ("typo", "방탄소년댄 봄날"), ("typo", "ドライフワラー"), ("nothing", "qzxv wvxq"),
)  # fmt: skip

_SYLLABLES = (
    "가나다라마바사아자하고노도로모보소오조구누두루무부수우주기니디리미비시지난만반산안한별달꽃봄날밤길꿈빛물말눈손집"
)
_KANA = "アイウエオカキクケコサシスセソタチツテトナニヌネノハヒフヘホマミムメモヤユヨラリルレロワン"
_LATIN = (
    "ba",
    "ce",
    "di",
    "fo",
    "gu",
    "ha",
    "je",
    "ki",
    "lo",
    "mu",
    "na",
    "pe",
    "ri",
    "so",
    "tu",
    "va",
    "we",
    "zo",
    "ther",
    "st",
)


def made_up(rng: random.Random, n: int) -> Iterator[tuple[dict[str, str], str]]:
    """Titles and creators, in turn of Hangul, kana and Latin letters."""
    scripts = (("ko", _SYLLABLES, " "), ("ja", _KANA, ""), ("en", _LATIN, " "))
    creators = {locale: [_word(rng, letters, 2, 4) for _ in range(max(1, n // 30))] for locale, letters, _ in scripts}
    for number in range(n):
        locale, letters, space = scripts[number % len(scripts)]
        words = [_word(rng, letters, 2, 4) for _ in range(rng.randint(1, 3))]
        yield {locale: space.join(words)}, rng.choice(creators[locale])


def catalogue(size: int, tracks: Path | None, seed: int = 1) -> list[Item]:
    """``size`` items, well known ones first, then those of the file."""
    rng = random.Random(seed)
    items = [
        Item(
            item_id=number,
            titles=titles,
            creator=creator,
            creator_local=local,
            popularity=0.5,
            columns={"title_yomi": yomi},
        )
        for number, (titles, creator, local, yomi) in enumerate(KNOWN, 1)
    ]
    if tracks is not None:
        with tracks.open(encoding="utf-8", newline="") as file:
            rows = [(row["track_name"], row["artist_name"], row["popularity"]) for row in csv.DictReader(file)]
        items += [
            Item(
                item_id=len(items) + number,
                titles={"en": title},
                creator=artist,
                popularity=float(popularity or 0) / 100,
            )
            for number, (title, artist, popularity) in enumerate(rows, 1)
        ]
    rest = made_up(rng, max(0, size - len(items)))
    items += [
        Item(item_id=len(items) + number, titles=titles, creator=creator, popularity=rng.random())
        for number, (titles, creator) in enumerate(rest, 1)
    ]
    return items[:size]


def with_a_slip(rng: random.Random, text: str) -> str:
    """``text`` with one letter left out, doubled, replaced or swapped with the next; of Hangul, one jamo replaced."""
    places = [place for place, character in enumerate(text) if character.isalnum()]
    place = rng.choice(places[1:] or places)
    character = text[place]
    if "가" <= character <= "힣":
        # 28 finals and 21 vowels: the vowel of this syllable becomes another.
        initial, rest = divmod(ord(character) - 0xAC00, 588)
        vowel, final = divmod(rest, 28)
        slip = chr(0xAC00 + initial * 588 + (vowel + rng.randint(1, 20)) % 21 * 28 + final)
        return text[:place] + slip + text[place + 1 :]
    kind = rng.randrange(4)
    another = rng.choice(_KANA if "ァ" <= character <= "ヿ" else "abcdefghijklmnopqrstuvwxyz")
    after = text[place + 1 :]
    swapped = after[:1] + character + after[1:]
    return text[:place] + ("" + after, character * 2 + after, another + after, swapped)[kind]


def part_inside(rng: random.Random, title: str) -> str:
    """One to three characters of ``title`` that no word begins with; in Latin letters a whole later word, if any."""
    if title.isascii():
        return rng.choice([word for word in title.split()[1:] if word.isalpha() and len(word) > 1] or [title])
    word = rng.choice([word for word in title.split() if len(word) > 1])
    start = rng.randrange(1, len(word))
    return word[start : start + rng.randint(1, 3)]


def later_beginning(rng: random.Random, title: str) -> str:
    """Two or three letters, or one or two syllables, that a later word of ``title`` begins with."""
    word = rng.choice(title.split()[1:])
    return word[: rng.randint(2, 3) if title.isascii() else rng.randint(1, 2)]


def held_by_first(index: NameIndex, asked: Sequence[tuple[Item, str]], items: dict[int, Item]) -> float:
    """How often a name of what comes first holds the text."""
    n_held = 0
    for _, text in asked:
        letters = folded(text).replace(" ", "")
        names = [Names.of(items[hit.item_id], SPELLINGS) for hit in index.search(text, 1)]
        n_held += any(letters in name.replace(" ", "") for each in names for name in [*each.titles, *each.creators])
    return n_held / len(asked)


def found_among_first(index: NameIndex, asked: Sequence[tuple[Item, str]], titles: dict[int, frozenset[str]]) -> float:
    """How often the item, or one of the same title, is among the first three."""
    n_found = 0
    for item, text in asked:
        wanted = titles[item.item_id]
        n_found += any(wanted & titles[hit.item_id] for hit in index.search(text, N_FIRST))
    return n_found / len(asked)


def titles_of(items: Sequence[Item]) -> dict[int, frozenset[str]]:
    """The folded titles of each item."""
    return {item.item_id: frozenset(map(folded, item.titles.values())) for item in items}


def built(items: Sequence[Item]) -> NameIndex:
    """The index of ``items``."""
    index = NameIndex(SPELLINGS)
    for start in range(0, len(items), CHUNK):
        index.put(items[start : start + CHUNK])
    index.commit()
    return index


def _may_begin_later(title: str) -> bool:
    words = title.split()[1:]
    return bool(words) and all(word.isalnum() and len(word) > 1 for word in words)


def _word(rng: random.Random, letters: Sequence[str], least: int, most: int) -> str:
    return "".join(rng.choice(letters) for _ in range(rng.randint(least, most)))


def _times_ms(index: NameIndex, texts: Sequence[str]) -> list[str]:
    """Percentiles 50, 95 and 99 of the time that passed, then of the CPU time, which others' work hardly changes."""
    passed, used = [], []
    for text in texts:
        began_s, cpu_s = time.perf_counter(), time.thread_time()
        index.search(text, 20)
        passed.append(1000 * (time.perf_counter() - began_s))
        used.append(1000 * (time.thread_time() - cpu_s))
    return [f"{each:.1f}" for times in (passed, used) for each in np.percentile(times, [50, 95, 99]).tolist()]


def _tell_of_times(index: NameIndex, items: Sequence[Item], n: int) -> None:
    rng = random.Random(2)
    titles, by_id = titles_of(items), {item.item_id: item for item in items}
    named = [item for item in items if len(folded(next(iter(item.titles.values())))) >= 6]
    scripts: dict[str, Callable[[str], bool]] = {
        "Hangul": lambda text: bool(initials_of(text)),
        "kana": lambda text: any("ぁ" <= letter <= "ヿ" for letter in text),
        "Latin": lambda text: text.isascii(),
    }
    table = Table(
        "titles", "asked", "found", "p50 ms", "p95", "p99", "CPU p50 ms", "p95", "p99", title=f"{len(items):,} items"
    )
    for script, is_of in scripts.items():
        of_script = [(item, title) for item in named for title in item.titles.values() if is_of(title)]
        drawn = rng.choices(of_script, k=n)
        ways: dict[str, list[tuple[Item, str]]] = {
            "as it is": drawn,
            "its first half": [(item, title[: (len(title) + 1) // 2]) for item, title in drawn],
            "with a slip": [(item, with_a_slip(rng, title)) for item, title in drawn],
        }
        of_parts = random.Random(3)
        parts = {"a word inside": [(item, part_inside(of_parts, title)) for item, title in drawn]}
        of_words = [(item, title) for item, title in drawn if _may_begin_later(title)]
        if len(of_words) > n // 10:
            parts["a later beginning"] = [(item, later_beginning(of_parts, title)) for item, title in of_words]
        if script == "Hangul":
            ways["in initials"] = [(item, initials_of(title)) for item, title in drawn]
        for way, asked in ways.items():
            times = _times_ms(index, [text for _, text in asked])
            found = "" if way == "its first half" else f"{found_among_first(index, asked, titles):.1%}"
            table.add_row(script, way, found, *times)
        for way, asked in parts.items():
            times = _times_ms(index, [text for _, text in asked])
            table.add_row(script, way, f"{held_by_first(index, asked, by_id):.1%}", *times)
    console.print(table)


def _tell_of_firsts(index: NameIndex, items: Sequence[Item]) -> None:
    by_id = {item.item_id: item for item in items}
    table = Table("kind", "asked", "came first", "then")
    for kind, text in ASKED:
        shown = [by_id[hit.item_id] for hit in index.search(text, 2)]
        told = [f"{next(iter(item.titles.values()))} / {item.creator_local or item.creator}" for item in shown]
        table.add_row(kind, text, *(*told, "", "")[:2])
    console.print(table)


def main() -> None:
    """Tell all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=Path, help="a file of tracks with track_name, artist_name and popularity")
    parser.add_argument("--size", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=600)
    given = parser.parse_args()
    items = catalogue(given.size, given.tracks)
    before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began_s, cpu_s = time.perf_counter(), time.process_time()
    index = built(items)
    grown_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before_mb
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    console.print(f"built in {took_s:.1f} s ({cpu_s:.1f} s of CPU); the process grew by {grown_mb:.0f} MB at its peak")
    _tell_of_times(index, items, given.queries)
    _tell_of_firsts(index, items)


if __name__ == "__main__":
    main()
