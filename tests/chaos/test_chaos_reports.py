"""What the chaos suite itself may get wrong: its tables, its shares of the faults, and checks that can fail."""

import os
import socket

import orjson
import pytest

from tests.chaos.__main__ import KILLS_BEGIN, ROUNDS_BEGIN, round_row, rows_of, share
from tests.chaos.chaos_round import Plan, Report
from tests.chaos.dead_letters import DeadLetterSeen
from tests.chaos.faults import FAULTS, draw
from tests.chaos.invariants import Findings, wrong_dead_letters
from tests.chaos.load import Letter
from tests.chaos.record import DOCUMENT, with_row
from tests.chaos.vitals import Vitals, vitals
from tests.support.private_servers import free_port

POISON = Letter("poison", b"{", None, is_poison=True)
FAILED = Letter("failed", b"{}", "failed")
STATUSES = {"failed": {"status": "failed", "error.code": "CODE"}, "fine": {"status": "succeeded"}}


def seen(key: str, reason: str = "attempts_used_up", code: str | None = "CODE", attempt: int = 3) -> DeadLetterSeen:
    return DeadLetterSeen(key, orjson.dumps({"attempt": attempt}), reason, "an error", code)


GOOD = [seen("failed"), seen("poison", "invalid")]


def test_the_poison_and_the_failed_jobs_are_what_may_be_dead() -> None:
    assert wrong_dead_letters(GOOD, [FAILED], [POISON], STATUSES) == []
    assert wrong_dead_letters([*GOOD, GOOD[0]], [FAILED], [POISON], STATUSES) == []  # counted, not refused


@pytest.mark.parametrize(
    "letters",
    [
        GOOD[:1],
        GOOD[1:],
        [*GOOD, seen("fine")],
        [*GOOD, seen("")],
        [seen("failed", "unexpected"), GOOD[1]],
        [seen("failed", code="OTHER"), GOOD[1]],
        [seen("failed", attempt=2), GOOD[1]],
        [GOOD[0], seen("poison", "attempts_used_up")],
        [GOOD[0], seen("poison", "invalid", code=None)],
    ],
)
def test_anything_else_among_the_dead_letters_is_a_fault(letters: list[DeadLetterSeen]) -> None:
    assert wrong_dead_letters(letters, [FAILED], [POISON], STATUSES)


@pytest.mark.parametrize("n_rounds", [1, 3, 10])
def test_all_rounds_together_have_every_fault_as_often(n_rounds: int) -> None:
    names = draw(7, 5)
    drawn = [name for number in range(n_rounds) for name in share(names, number, n_rounds)]
    assert drawn == names
    assert len(names) == 5 * len(FAULTS)


def test_a_stopped_run_goes_on_after_its_last_row() -> None:
    findings = Findings(
        n_jobs=1000,
        n_succeeded=990,
        n_failed=10,
        n_poison=3,
        n_dead_letters=14,
        n_repeated_dead_letters=1,
        faults=(),
    )
    report = Report(findings, 1100, 61.5, [Vitals(150.0, 30, 45)], [Vitals(151.0, 29, 44)])
    document = DOCUMENT.read_text(encoding="utf-8")
    before = rows_of(document, 1_000_007)
    for part in range(2):
        plan = Plan(seed=1_000_007, n_jobs=1000, faults=["duplicates", "redis_full", "duplicates"], part=part)
        document = with_row(document, ROUNDS_BEGIN, round_row(plan, report))
    assert (before, rows_of(document, 1_000_007)) == (0, 2)
    assert "| 14 (1) | 1,100 | 150 to 151 | 30 to 29 | 62 | duplicates ×2, redis_full |\n<!--" in document
    assert KILLS_BEGIN in document


def test_a_document_without_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="chaos rounds"):
        with_row("# Another page", ROUNDS_BEGIN, "| 1 |")


def test_an_open_socket_is_seen() -> None:
    before = vitals(os.getpid())
    with socket.create_server(("127.0.0.1", free_port())):
        assert vitals(os.getpid()).n_sockets == before.n_sockets + 1
        assert vitals(os.getpid()).n_open == before.n_open + 1
    assert vitals(os.getpid()).n_sockets == before.n_sockets
    assert before.rss_mb > 1
