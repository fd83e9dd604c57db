"""The fingerprint changes with everything that the answer depends on, and with nothing else."""

from dataclasses import replace

import pytest

from core.fingerprint import fingerprint
from models.catalogue import Interest, Listener
from models.job import Job, Strategy

JOB = Job(job_id="a", member_id=7)
LISTENER = Listener(member_id=7, interests=(Interest(1), Interest(2)), seen_ids=frozenset({1, 2}))
VERSIONS = {"index": "1", "model": "m", "prompt": "p", "settings": "s"}


def of(job: Job = JOB, listener: Listener = LISTENER, locale: str = "ko", top_k: int = 50, **versions: str) -> str:
    return fingerprint(job, listener, locale=locale, top_k=top_k, versions={**VERSIONS, **versions})


def test_it_is_short_hexadecimal_and_repeatable() -> None:
    assert of() == of()
    assert len(of()) == 32
    int(of(), 16)


@pytest.mark.parametrize(
    "same",
    [
        replace(JOB, job_id="b"),
        replace(JOB, source="login"),
        replace(JOB, requested_at_ns=5),
        replace(JOB, attempt=3),
        replace(JOB, idempotency_key="k", trace_id="t"),
    ],
)
def test_what_only_names_or_dates_the_job_does_not_count(same: Job) -> None:
    assert of(same) == of()


def test_each_thing_the_answer_depends_on_counts() -> None:
    others = [
        of(replace(JOB, strategy=Strategy.DEEP)),
        of(listener=replace(LISTENER, member_id=8)),
        of(listener=replace(LISTENER, interests=(Interest(1),))),
        of(listener=replace(LISTENER, seen_ids=frozenset({1, 2, 3}))),
        of(listener=replace(LISTENER, disliked_ids=frozenset({9}))),
        of(locale="en"),
        of(top_k=10),
        of(index="2"),
        of(model="n"),
        of(prompt="q"),
        of(settings="t"),
    ]
    assert len({of(), *others}) == len(others) + 1


def test_ids_beyond_64_bits_do_not_break_it() -> None:
    huge = replace(LISTENER, seen_ids=frozenset({2**70}))
    assert of(listener=huge) != of()


def test_without_a_wish_it_is_what_it_was_before_there_were_wishes() -> None:
    assert of() == of(replace(JOB, context=None)) == "3378448cc0c4c48e8579fea64729e0bb"
    assert fingerprint(JOB, LISTENER, locale="ko", top_k=50, versions=VERSIONS, wish={}) == of()


def test_each_part_of_a_wish_counts() -> None:
    wishes: list[dict[str, str]] = [{}, {"query": "calm"}, {"mood": "calm"}, {"query": "calm", "time": "time:night"}]
    assert (
        len({fingerprint(JOB, LISTENER, locale="ko", top_k=50, versions=VERSIONS, wish=each) for each in wishes}) == 4
    )
