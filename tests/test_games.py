"""The second domain: games, from files to recommendations, and no word of songs on the way."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest

from config.catalogue_profile import load_profile
from config.prompt_texts import load_prompt_texts
from core.explanation import Explainer
from core.prompting import Wanted, build_prompt
from core.wish import WishReader
from models.catalogue import Item
from models.job import JobContext
from models.recommendation import Candidate, CandidateSource, Discovery, Evidence, RecommendationType, WishedFor
from tests.support.backend import job_body, open_backend
from tests.support.command import run_command, run_here
from tests.support.llm_server import LLMServer, prompt_text
from tests.support.messaging import delete_topology
from tests.support.worker_process import worker
from workers.topology import build_topology

GAMES, TEXTS = load_profile("games"), load_prompt_texts()
LOCALES = ("en", "ko", "ja")
GENRES = ("Action", "Adventure", "Indie", "Casual")
N_GAMES, N_PLAYERS = 40, 120

# Words that have no place among games, in the three languages. A listener is whoever is recommended to, in any domain.
OF_SONGS = re.compile(
    r"\b(songs?|tracks?|artists?|music|musical|singers?|albums?|playlists?|listen(?:s|ed|ing)?|hear(?:s|d|ing)?|karaoke|melod\w+|tunes?|lyrics?)\b"
    r"|노래|음악|가수|아티스트|앨범|듣는|들어|들으|들을|듣기|[곡]\b|曲|歌|音楽|アーティスト|聴|アルバム",
    re.IGNORECASE,
)


def words_of_songs(text: str) -> list[str]:
    return [found.group() for found in OF_SONGS.finditer(text)]


def test_words_of_songs_are_found_in_each_language() -> None:
    """Otherwise the tests below could not fail."""
    songs = load_profile("songs")
    item = Item(item_id=1, titles={"en": "One"}, creator="A", genres=("pop",))
    for locale in LOCALES:
        assert words_of_songs(Explainer(songs, TEXTS).taste([], locale).overall_taste)
    system = build_prompt([of_item(item)], [], locale="en", profile=songs, texts=TEXTS, n_picks=1)[0].system
    assert set(words_of_songs(system)) >= {"songs", "song", "artist"}
    assert not words_of_songs("Tracking heartless songbirds")


# --- what is told ---


def game(item_id: int, genre: str = "Action", mood: str | None = None) -> Item:
    titles = {"en": f"Game {item_id}"}
    return Item(item_id=item_id, titles=titles, genres=(genre,), moods=(mood,) if mood else ())


def of_item(item: Item, kind: RecommendationType = RecommendationType.SIMILAR, **evidence: Any) -> Candidate:
    return Candidate(item=item, score=0.9, kind=kind, evidence=Evidence(**{"similarity": 0.1, **evidence}))


def all_kinds() -> list[Candidate]:
    """One candidate at least for every phrase that a game can be given."""
    near = {"similarity": 0.9, "near": (game(90),), "near_similarity": (0.9,)}
    wish = (WishedFor("genre:action", GAMES.wishes.genres["action"].labels),)
    evidences: list[dict[str, Any]] = [
        {},
        near,
        {**near, "shared_genres": ("Action",)},
        {**near, "shared_moods": ("dark",)},
        {"shared_genres": ("Action",), "shared_moods": ("dark",)},
        {"shared_genres": ("Action",)},
        {"shared_moods": ("dark",)},
        {**near, "discovery": Discovery.HIDDEN_GEM},
        {"wish": wish},
        {**near, "wish": wish},
        {"sources": (CandidateSource.WISH,)},
    ]
    kinds = [kind for kind in RecommendationType if kind is not RecommendationType.ARTIST]
    return [
        of_item(game(100 + place * len(kinds) + column), kind, **evidence)
        for place, evidence in enumerate(evidences)
        for column, kind in enumerate(kinds)
    ]


@pytest.mark.parametrize("locale", LOCALES)
def test_labels_reasons_and_tastes_are_of_games(locale: str) -> None:
    explainer = Explainer(GAMES, TEXTS)
    told = explainer.explain(all_kinds(), [game(1), game(2, "Indie")], locale)
    reasons = [explainer.reason(candidate, locale) for candidate in all_kinds()]
    texts = [text for group in told.groups for text in (group.label, group.tagline)]
    texts += [told.taste.overall_taste, explainer.taste([], locale).overall_taste, explainer.tagline(locale)]
    assert len(set(reasons)) >= 10
    assert words_of_songs("\n".join([*reasons, *texts])) == []
    assert GAMES.words_in(locale).items in explainer.taste([], locale).overall_taste


@pytest.mark.parametrize("wanted", list(Wanted))
@pytest.mark.parametrize("locale", LOCALES)
def test_the_prompt_is_of_games_and_has_no_cell_for_creators(locale: str, wanted: Wanted) -> None:
    candidates = [of_item(game(number), shared_genres=("Action",)) for number in range(3)]
    prompt, _ = build_prompt(
        candidates, [game(90)], locale=locale, profile=GAMES, texts=TEXTS, n_picks=2, wanted=wanted
    )
    assert words_of_songs(prompt.system + prompt.user + json.dumps(prompt.schema)) == []
    assert "game" in prompt.system
    assert "creator" not in prompt.system
    assert "| |" not in prompt.system
    assert "$" not in prompt.system
    rows = prompt.user.splitlines()
    assert rows[1:4] == [f"{place} Game {place - 1} | Action | -" for place in (1, 2, 3)]
    assert rows[6] == "A Game 90 | Action"


def test_what_the_model_is_told_of_wishes_is_of_no_domain() -> None:
    assert words_of_songs(TEXTS.wishes.instructions + TEXTS.wishes.phrases["en"].model_dump_json()) == []


def test_a_phrase_of_the_profile_stands_in_for_the_common_one() -> None:
    candidate = of_item(game(1), RecommendationType.COLLABORATIVE)
    assert Explainer(GAMES, TEXTS).reason(candidate, "en") == "Picked by players who like what you like"
    assert Explainer(GAMES, TEXTS).reason(candidate, "ko") == "취향이 비슷한 플레이어들이 고른 게임"


def test_the_profile_itself_and_what_a_player_may_wish_for_name_no_songs() -> None:
    assert words_of_songs(GAMES.model_dump_json() + GAMES.wishes.model_dump_json()) == []


@pytest.mark.parametrize(
    ("query", "keys"),
    [
        ("a short racing game please", {"genre:racing", "activity:short_break"}),
        ("주말에 할 전략 게임", {"genre:strategy", "activity:weekend"}),
        ("インディーゲームが遊びたい", {"genre:indie"}),
    ],
)
def test_players_wish_in_their_own_words(query: str, keys: set[str]) -> None:
    wish = WishReader(GAMES.wishes).read(JobContext(query=query))
    assert wish is not None
    assert {part.wished_for.key for part in wish.parts} == keys


# --- from files to recommendations ---


def write_games(path: Path) -> Path:
    """The layout of popular_games.csv; by number, games are of four kinds."""
    rows = [
        f"{5000 + number},Game No. {number},{number % 7},{3 + number % 20 / 10},{GENRES[number % 4]},{number % 10 / 10}"
        for number in range(N_GAMES)
    ]
    path.write_text("\ufeffgame_id,game_name,playtime,rating,genre,owned_ratio\n" + "\n".join(rows), encoding="utf-8")
    return path


def picks_of(player: int) -> list[int]:
    return Random(player).sample(range(player % 4, N_GAMES, 4), 2 + player % 3)


def write_picks(path: Path) -> Path:
    """The layout of games_log.csv; every player keeps to one kind."""
    rows = []
    for player in range(1, N_PLAYERS + 1):
        rows += [f"{player},{5000 + number},Game No. {number}" for number in picks_of(player)]
    path.write_text("\ufeffuser_id,game_id,game_name\n" + "\n".join(rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    directory = tmp_path_factory.mktemp("games")
    return str(write_games(directory / "games.csv")), str(write_picks(directory / "picks.csv"))


@pytest.fixture(scope="module")
def real_files(data_dir: Path) -> tuple[str, str]:
    return str(data_dir / "popular_games.csv"), str(data_dir / "games_log.csv")


async def succeeds(*command: str, environment: Mapping[str, str]) -> str:
    outcome = await run_here(*command, environment=environment)
    assert outcome.code == 0, outcome.err + outcome.out
    return outcome.out


def settings_of(database_url: str) -> dict[str, str]:
    return {"CATALOGUE_PROFILE": "games", "DATABASE_URL": database_url, "LOG_LEVEL": "ERROR"}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return settings_of(f"sqlite:///{tmp_path / 'games.db'}")


@pytest.mark.parametrize("source", ["files", "real_files"])
async def test_from_two_files_to_a_model_of_what_is_played_together(
    source: str, environment: dict[str, str], request: pytest.FixtureRequest
) -> None:
    items, picks = request.getfixturevalue(source)
    await succeeds("migrate", environment=environment)
    told = await succeeds("ingest", items, picks, environment=environment)
    assert "40 games new, 0 changed, 0 as they were; 0 rows left out" in told
    assert re.search(r"(\d+) rows: \1 likes new", told)
    again = await succeeds("ingest", items, picks, environment=environment)
    assert "0 games new, 0 changed, 40 as they were" in again
    assert "0 likes new" in again
    assert "40 embedded" in await succeeds("embed", environment=environment)
    fitted = await succeeds("fit", "--budget-s", "1", environment=environment)
    assert re.search(r"interactions of 1[0-9]{2} members with 40 items", fitted)
    assert "is in force" in fitted
    assert words_of_songs(told + fitted) == []


@pytest.mark.parametrize("source", ["files", "real_files"])
async def test_lists_of_few_players_are_measured_and_made(
    source: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    items, picks = request.getfixturevalue(source)
    figures, out = tmp_path / "figures.json", tmp_path / "lists.csv"
    options = ("--items", items, "--budget-s", "1")
    await succeeds(
        "evaluate", picks, *options, "--protocol", "known", "--k", "5", "--json", str(figures), environment={}
    )
    found = json.loads(figures.read_text())
    assert found["n_listeners"] >= 50
    rows = {row["method"]: row for row in found["rows"]}
    assert {"recall", "precision", "hit_rate", "average_precision", "ndcg"} <= rows["ours"].keys()
    if source == "files":  # players keep to a kind there, of which popularity knows nothing
        assert rows["ours"]["recall"]["value"] > 2 * rows["popularity"]["recall"]["value"]
    queries = tmp_path / "queries.csv"
    queries.write_text("query_id,item_id\nq,5001\nq,5005\n" if source == "files" else "query_id,item_id\nq,1071\n")
    await succeeds("rank", "--train", picks, "--queries", str(queries), "--out", str(out), *options, environment={})
    ranked = [line.split(",")[2] for line in out.read_text().splitlines()[1:]]
    assert len(ranked) == 20
    if source == "files":
        # there are 8 more of the kind among 38: of eight picked by chance not two would be of it
        assert sum(int(item_id) % 4 == 1 for item_id in ranked[:8]) >= 4


async def test_the_demonstration_asks_for_the_players_of_the_file(files: tuple[str, str]) -> None:
    items, picks = files
    command = ("demo", "--file", items, "--file", picks, "--members", "5", "--shown", "2", "--locale", "ja")
    outcome = await run_here(*command, environment={"CATALOGUE_PROFILE": "games"})
    assert outcome.code == 0, outcome.err
    assert "5 jobs ended" in outcome.out
    assert "Game No. " in outcome.out
    assert words_of_songs(outcome.out.split("what the metrics counted")[0]) == []


async def test_without_files_nothing_is_made_up_for_games() -> None:
    outcome = await run_here("demo", environment={"CATALOGUE_PROFILE": "games"})
    assert (outcome.code, outcome.out) == (2, "")
    assert "for profile 'games' nothing can be made up: give --file FILE" in " ".join(outcome.err.split())


# --- a job, whole ---


@pytest.mark.timeout(120)
async def test_jobs_of_games_go_through_the_whole_worker(
    amqp_url: str, mysql_url: str, redis_url: str, llm_server: LLMServer, files: tuple[str, str]
) -> None:
    prefix = f"games.{Random().getrandbits(32):x}"
    environment = {
        **settings_of(mysql_url),
        "BROKER_URL": amqp_url,
        "REDIS_URL": redis_url,
        "OPENAI_BASE_URL": llm_server.base_url,
        "NAME_PREFIX": prefix,
        "RETRY_DELAYS_S": "0.2,0.5,1",
    }
    for command in (("migrate",), ("ingest", *files), ("embed",), ("fit", "--budget-s", "1")):
        outcome = await run_command(*command, environment=environment)
        assert outcome.code == 0, outcome.err
    topology = build_topology(prefix, (0.2, 0.5, 1))
    async with worker(environment), open_backend(amqp_url, redis_url, prefix) as backend:
        bodies = [job_body(player, locale=locale) for player, locale in enumerate(LOCALES, start=1)]
        await backend.publish(bodies)
        await backend.wait([body["jobId"] for body in bodies], 30, until={"succeeded"})
        results = [await backend.result(body["jobId"]) for body in bodies]
    await delete_topology(amqp_url, topology)
    for player, result in enumerate(results, start=1):
        assert_is_of_games(result, {5000 + number for number in picks_of(player)})
    assert llm_server.n_calls == len(LOCALES)
    assert words_of_songs("\n".join(map(prompt_text, llm_server.requests))) == []


def assert_is_of_games(result: Mapping[str, Any], picked: set[int]) -> None:
    assert words_of_songs(orjson.dumps(result).decode()) == []
    assert not result["degraded"]
    shown = [row for group in result["groups"] for row in group["games"]]
    for row in [*shown, *result["candidates"]]:
        assert row["game_name"].startswith("Game No. ")
        assert 5000 <= row["game_id"] < 5000 + N_GAMES
        assert row["game_id"] not in picked
        assert 3 <= row["rating"] <= 5
    assert len({row["game_id"] for row in result["candidates"]}) == len(result["candidates"]) >= 20
    assert any("source:collaborative" in row["matched_criteria"] for row in result["candidates"])
    assert result["preference"]["favorite_studios"] == []
