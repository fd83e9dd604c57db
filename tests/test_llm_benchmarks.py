"""The commands behind the figures of docs/llm.md, on the smallest of samples."""

import re
from pathlib import Path

import pytest

from benchmarks import llm_tokens, truth
from config.llm_strategies import DEFAULT_STRATEGIES
from tests.support.labelled_claims import HELD_OUT
from tests.support.llm_server import Manner

PAGE = (Path(__file__).parents[1] / "docs" / "llm.md").read_text(encoding="utf-8")


@pytest.fixture
def tracks(tmp_path: Path) -> Path:
    path = tmp_path / "tracks.csv"
    rows = [f"Quiet Evening {n},Singer Number {n % 90},{('pop', 'rock', 'folk')[n % 3]}" for n in range(400)]
    path.write_text("\n".join(["track_name,artist_name,genre", *rows]), encoding="utf-8")
    return path


@pytest.mark.parametrize("locale", ["en", "ko", "ja"])
def test_tokens_are_printed_as_the_page_has_them_and_within_their_budgets(tracks: Path, locale: str) -> None:
    cells = [cell.strip() for cell in llm_tokens.row(locale, tracks, n_samples=2).strip("|").split("|")]
    prompt, completion, ceiling, screening, answer, explaining = (
        int(cell.split(" to ")[-1].replace(",", "")) for cell in cells[1:]
    )
    assert 1000 < prompt <= DEFAULT_STRATEGIES.default.max_prompt_tokens
    assert completion < ceiling <= DEFAULT_STRATEGIES.default.max_completion_tokens
    assert answer < 100 < explaining < screening <= DEFAULT_STRATEGIES.deep.max_prompt_tokens
    # What no sample changes must be what the page says.
    (told,) = (line for line in PAGE.splitlines() if line.startswith(f"| {cells[0]} | ") and "to" in line)
    assert f"| {completion} | {ceiling} |" in told
    assert f"| {answer} |" in told


@pytest.mark.parametrize("locale", ["en", "ko", "ja"])
def test_how_often_the_check_is_right_is_as_the_page_has_it(locale: str) -> None:
    _, told = truth.judged(locale, HELD_OUT)
    precision, recall = told.split(", ")
    language = llm_tokens.LANGUAGES[locale]
    (line,) = (line for line in PAGE.splitlines() if re.match(rf"\| {language} \| \d+ / \d+ \|", line))
    assert f"/ {precision} |" in line
    assert f"/ {recall} |" in line


async def test_of_a_careless_model_the_untrue_half_gives_way_and_of_a_good_one_nothing() -> None:
    assert await truth.replaced(Manner.CARELESS, "en") == (10, 20)
    assert await truth.replaced(Manner.GOOD, "en") == (0, 20)


def test_sentences_of_the_evidence_are_counted_and_timed(tracks: Path) -> None:
    assert truth.sweep(tracks, 1) == (60, 0, 200, 0)
    assert all(each > 0 for each in truth.milliseconds(tracks, "ko", 1))
