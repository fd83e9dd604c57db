"""The Last.fm files as data sets that ``main.py evaluate`` reads.

    .venv/bin/python -m benchmarks.lastfm_dataset DIRECTORY_OF_DAT_FILES OUT

``OUT/plays``: who played whom how often, and the artists with their tags. ``OUT/tagging``: who gave an artist a tag for
the last time when, for splits by time; plays have no instants. An artist's tags are those of all listeners, each once:
whoever tags an artist mostly plays it as well, so that figures with tags are too good for listeners who are asked for.
"""

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path


def write_plays(data: Path, out: Path) -> None:
    """``interactions.csv`` and ``items.csv``."""
    plays = [row[:3] for row in _rows(data / "lastfm_user_artists.dat")]
    _write(out / "interactions.csv", ("user_id", "item_id", "weight"), plays)
    names = {row[0]: row[1] for row in _rows(data / "lastfm_tags.dat", encoding="latin-1")}
    tags: defaultdict[str, set[str]] = defaultdict(set)
    for _, artist, tag, *_ in _rows(data / "lastfm_user_taggedartists.dat"):
        tags[artist].add(names.get(tag, tag))
    artists = sorted({artist for _, artist, _ in plays} & tags.keys(), key=int)
    _write(out / "items.csv", ("item_id", "tags"), ((artist, "; ".join(sorted(tags[artist]))) for artist in artists))


def write_tagging(data: Path, out: Path) -> None:
    """``interactions.csv`` with the day of each."""
    days: dict[tuple[str, str], date] = {}
    for user, artist, _, day, month, year in _rows(data / "lastfm_user_taggedartists.dat"):
        days[user, artist] = max(date(int(year), int(month), int(day)), days.get((user, artist), date.min))
    rows = ((user, artist, day.isoformat()) for (user, artist), day in days.items())
    _write(out / "interactions.csv", ("user_id", "item_id", "occurred_at"), rows)


def _rows(path: Path, encoding: str = "utf-8") -> Iterable[list[str]]:
    """Without the header, where there is one."""
    with path.open(encoding=encoding, errors="replace", newline="") as lines:
        yield from (
            row for row in csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if row and row[0].isdigit()
        )


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    write_plays(arguments.data, arguments.out / "plays")
    write_tagging(arguments.data, arguments.out / "tagging")
