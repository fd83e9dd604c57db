"""How often the check of what a model says is right, and what it costs.

    python -m benchmarks.truth --tracks spotify_songs.csv [--draws 100]

The labelled sentences are those of ``tests/support/labelled_claims.py``; the models are manners of the tests' server.
Sentences of the evidence are true, whatever songs they are of: each draw takes 160 songs, 100 as candidates and 60 as
likes, and has 20 candidates explained in each language. Times are CPU of one thread, medians of 51 results of 20
reasons, what is made of the songs' names included.
"""

import argparse
import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from statistics import median

import structlog

from core.explanation import Explainer
from core.script import Script
from core.truth import Truth
from models.recommendation import Candidate, Evidence
from tests.support.builders import make_candidate
from tests.support.labelled_claims import HELD_OUT, SENTENCES, Labelled
from tests.support.llm_server import LLMServer, Manner
from tests.support.scripted_language_model import RecordingObserver
from tests.test_llm_safety import asking, reranked
from tests.test_token_budget import real_songs
from tests.test_truth import PLAIN_SENTENCES, PROFILE, RULES, TEXTS, unsupported

LANGUAGES = {"en": "English", "ko": "Korean", "ja": "Japanese"}
N_SHOWN, N_LIKED, N_REASONS, N_ROUNDS = 100, 60, 20, 51

Explained = list[tuple[Candidate, str]]


def judged(locale: str, sentences: Sequence[Labelled]) -> tuple[int, str]:
    """How many sentences there are, and how many were rightly replaced of all replaced and of all that ought to be."""
    told = [
        (each.is_true, not unsupported(each.text, each.pick, locale=locale))
        for each in sentences
        if each.locale == locale
    ]
    n_caught = told.count((False, False))
    n_replaced, n_untrue = sum(not passed for _, passed in told), sum(not is_true for is_true, _ in told)
    return len(told), f"{n_caught} of {n_replaced}, {n_caught} of {n_untrue}"


def drawn(tracks: Path, seed: int, locale: str) -> tuple[Callable[[], Truth], Explained]:
    """What makes the truth of so many songs, and sentences of the evidence about some of them."""
    random, explainer = Random(seed), Explainer(PROFILE, TEXTS)
    items = real_songs(tracks, random, N_SHOWN + N_LIKED)
    shown, liked = items[:N_SHOWN], items[N_SHOWN:]
    explained = []
    for item in shown[:N_REASONS]:
        near = (random.choice(liked),)
        evidence = Evidence(similarity=0.9, near=near, near_similarity=(0.9,), shared_genres=item.genres)
        candidate = replace(make_candidate(item), evidence=evidence)
        explained.append((candidate, explainer.reason(candidate, locale)))
    return partial(Truth, RULES[locale], shown, liked), explained


def sweep(tracks: Path, n_draws: int) -> tuple[int, int, int, int]:
    """Sentences of the evidence and those of plain words, each with how many of them were taken for untrue."""
    n_told = n_plain = bad_told = bad_plain = 0
    for seed in range(n_draws):
        for locale in LANGUAGES:
            made, explained = drawn(tracks, seed, locale)
            truth = made()
            n_told += len(explained)
            bad_told += sum(bool(truth.unsupported(said, [about])) for about, said in explained)
            for about, _ in explained if locale == "en" else []:
                n_plain += len(PLAIN_SENTENCES)
                bad_plain += sum(bool(truth.unsupported(said, [about])) for said in PLAIN_SENTENCES)
    return n_told, bad_told, n_plain, bad_plain


async def replaced(manner: Manner, locale: str) -> tuple[int, int]:
    """How many reasons of a model of that manner gave way, and how many there were."""
    server, observer = LLMServer(), RecordingObserver()
    await server.start()
    try:
        server.manner = manner
        async with asking(server) as model:
            outcome = await reranked(model, observer, locale)
    finally:
        await server.close()
    return observer.dropped.get("untrue_reason", 0), sum(len(group.picks) for group in outcome.groups)


def milliseconds(tracks: Path, locale: str, n_rounds: int = N_ROUNDS) -> tuple[float, float]:
    """Of one result: the check of what is true, and that of the language."""
    script, times = Script(TEXTS.locales[locale]), list[tuple[float, float]]()
    for seed in range(n_rounds):
        made, explained = drawn(tracks, seed, locale)
        begun = time.thread_time()
        truth = made()
        for about, said in explained:
            truth.unsupported(said, [about])
        checked = time.thread_time()
        for _, said in explained:
            # As where an answer of the model is read.
            script.is_all_of(said) or script.is_of(said, truth.without_names(said))
        times.append((1000 * (checked - begun), 1000 * (time.thread_time() - checked)))
    return median(each for each, _ in times), median(each for _, each in times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=Path, required=True, help="a CSV of track_name, artist_name and genre")
    parser.add_argument("--draws", type=int, default=100)
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    print("rightly replaced, of all replaced and of all that ought to be:")
    for locale, language in LANGUAGES.items():
        for name, sentences in (("labelled", SENTENCES), ("held out", HELD_OUT)):
            n, told = judged(locale, sentences)
            print(f"  {language}, {name}: {n} sentences; {told}")
    for manner in (Manner.CARELESS, Manner.GOOD):
        found = {locale: asyncio.run(replaced(manner, locale)) for locale in LANGUAGES}
        print(f"{manner}: " + ", ".join(f"{each} {n} of {n_all} replaced" for each, (n, n_all) in found.items()))
    for locale, language in LANGUAGES.items():
        truth_ms, script_ms = milliseconds(arguments.tracks, locale)
        print(f"{language}: {truth_ms:.2f} ms for what is true, {script_ms:.2f} ms for the language")
    n_told, bad_told, n_plain, bad_plain = sweep(arguments.tracks, arguments.draws)
    print(f"{bad_told} of {n_told} sentences of the evidence replaced, {bad_plain} of {n_plain} of plain words")


if __name__ == "__main__":
    main()
