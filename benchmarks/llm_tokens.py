"""Tokens (o200k_base) of the prompts and answers of ``default`` and ``deep``, by language.

    python -m benchmarks.llm_tokens --tracks spotify_songs.csv

Ten samples each of what ``tests/test_token_budget.py`` builds: real titles for English, typical ones for Korean and
Japanese. ``default`` shows 100 candidates and 30 likes and has 20 explained; answers are as long as the instructions
allow. ``deep`` chooses 40 of 240, and then explains 20 of these. Of several figures the least and the most are printed.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random

from config.llm_strategies import DEFAULT_STRATEGIES
from core.ports.language_model import Prompt
from core.prompting import Wanted, build_prompt
from models.catalogue import Item
from tests.support.builders import make_candidate
from tests.support.llm_server import count_tokens
from tests.test_token_budget import PROFILE, TEXTS, ask, full_answer, prompt_tokens, real_songs, songs_of

LANGUAGES = {"en": "English", "ko": "Korean", "ja": "Japanese"}
N_SAMPLES, N_CHOSEN = 10, 40
DEFAULT, DEEP = DEFAULT_STRATEGIES.default, DEFAULT_STRATEGIES.deep


def row(locale: str, tracks: Path, n_samples: int = N_SAMPLES) -> str:
    """A line of the table in docs/llm.md."""
    seeds = [Random(seed) for seed in range(n_samples)]
    asked = [ask(_songs(tracks, each, locale, DEFAULT.n_likes + DEFAULT.n_candidates), each, locale) for each in seeds]
    screened = [
        _screening(_songs(tracks, each, locale, DEEP.n_likes + DEEP.n_candidates), each, locale) for each in seeds
    ]
    explained = [
        ask(_songs(tracks, each, locale, DEEP.n_likes + N_CHOSEN), each, locale, limits=DEEP) for each in seeds
    ]
    chosen = [{"picks": each.sample(range(1, DEEP.n_candidates + 1), N_CHOSEN)} for each in seeds]
    cells = [
        _span(map(prompt_tokens, asked)),
        str(count_tokens(full_answer(locale))),
        _span(prompt.max_output_tokens for prompt in asked),
        _span(map(prompt_tokens, screened)),
        _span(count_tokens(json.dumps(each, separators=(",", ":"))) for each in chosen),
        _span(map(prompt_tokens, explained)),
    ]
    return f"| {LANGUAGES[locale]} | {' | '.join(cells)} |"


def _songs(tracks: Path, random: Random, locale: str, n: int) -> list[Item]:
    return real_songs(tracks, random, n) if locale == "en" else songs_of(locale, random, n)


def _screening(items: Sequence[Item], random: Random, locale: str) -> Prompt:
    likes = items[: DEEP.n_likes]
    prompt, _ = build_prompt(
        [make_candidate(item, near=[random.choice(likes)]) for item in items[DEEP.n_likes :]],
        likes,
        locale=locale,
        profile=PROFILE,
        texts=TEXTS,
        n_picks=N_CHOSEN,
        wanted=Wanted.HANDLES,
        limits=DEEP,
        seed="s",
    )
    return prompt


def _span(counts: Iterable[int]) -> str:
    least, *_, most = sorted([*counts] * 2)
    return str(most) if least == most else f"{least} to {most}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=Path, required=True, help="a CSV of track_name, artist_name and genre")
    arguments = parser.parse_args()
    print("| | prompt | completion | its ceiling | `deep`: choosing 40 of 240 | its answer | explaining these |")
    for locale in LANGUAGES:
        print(row(locale, arguments.tracks))


if __name__ == "__main__":
    main()
