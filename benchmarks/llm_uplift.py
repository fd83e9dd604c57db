"""``evaluate --llm`` on real listeners, with three models that are no models: it must tell them apart.

    .venv/bin/python -m benchmarks.llm_uplift [--data ../shared/data] [--users 200] [--budget-s 30]

The data are Last.fm's (HetRec 2011): who plays which artists, their names and tags. The test server answers: ``good``
knows what was held out and picks it first, ``shuffled`` knows nothing, ``reversed`` picks it last. Figures are in
``docs/llm.md``.
"""

import argparse
import asyncio
import csv
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from threadpoolctl import threadpool_limits

from config.settings import Settings
from config.token_price import TokenPrice
from services.collaborative_source import InMemoryCollaborativeSource
from services.item_index import InMemoryItemIndex
from services.logs import configure_logging
from tests.support.llm_server import LLMServer, Manner, Question
from training import uplift
from training.evaluate import split_of
from training.first_stage import Study, prepare
from training.interaction_files import read_interactions
from training.kept_answers import open_kept_answers
from workers.runtime.judge import open_judge

K, SEED, PROTOCOL = 20, 0, "new"
N_TAGS = 3
PRICE = TokenPrice(input=0.4, cached_input=0.1, output=1.6)


def write_dataset(data: Path, directory: Path) -> None:
    """Plays, and artists with their commonest tags, but for those that the asked listeners gave: they tell too much."""
    plays = directory / "interactions.csv"
    plays.write_bytes((data / "lastfm_user_artists.dat").read_bytes())
    observed = read_interactions(plays)
    asked = {
        observed.user_ids[user] for user in set(observed.users[split_of(observed, PROTOCOL, SEED).targets].tolist())
    }
    names = {row[0]: row[1] for row in _table(data / "lastfm_tags.dat", "latin-1")}
    tags: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for user, artist, tag, *_ in _table(data / "lastfm_user_taggedartists.dat"):
        if user not in asked:
            tags[artist][names.get(tag, tag)] += 1
    with (directory / "items.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["item_id", "name", "tags"])
        for artist, name, *_ in _table(data / "lastfm_artists.dat"):
            writer.writerow([artist, name, ";".join(tag for tag, _ in tags[artist].most_common(N_TAGS))])


def _table(path: Path, encoding: str = "utf-8") -> list[list[str]]:
    with path.open(encoding=encoding, errors="replace", newline="") as file:
        return [row for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if row][1:]


def knowing(questions: Sequence[uplift.Question]) -> Callable[[Question], Collection[int]]:
    """Which handles the listener of a prompt wants; a prompt is known by its lines."""
    wanted = {
        each.asked.prompt.user: [h for h, c in each.asked.handles.items() if c.item.item_id in each.listener.targets]
        for each in questions
    }
    by_lines = {_lines(user): handles for user, handles in wanted.items()}
    return lambda question: by_lines[frozenset(f"{handle} {line}" for handle, line in question.lines.items())]


def _lines(user: str) -> frozenset[str]:
    inside = user.split("<candidates>\n", 1)[1].split("</candidates>", 1)[0]
    return frozenset(line for line in inside.splitlines() if line)


async def measure(study: Study, directory: Path, console: Console) -> None:
    """One report for each of the three."""
    server = LLMServer()
    await server.start()
    settings = Settings(openai_base_url=server.base_url, default_locale="en")
    index, source = InMemoryItemIndex(study.rows, study.embedder_name), InMemoryCollaborativeSource(study.fitted)
    async with open_judge(settings) as opened:
        judge = replace(opened, price=PRICE)
        questions = await uplift.questions_of(study, index, source, judge, k=K)
        server.relevant = knowing(questions)
        for manner in (Manner.GOOD, Manner.SHUFFLED, Manner.REVERSED):
            server.manner = manner
            with open_kept_answers(directory / f"{manner}.db") as kept:
                console.print(f"\n{manner}: {uplift.estimate(questions, kept, judge)}", highlight=False)
                heard = await uplift.ask(questions, judge, kept)
            for part in uplift.report(study, questions, heard, judge, k=K):
                console.print(part, highlight=False)
    await server.close()


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--budget-s", type=float, default=30.0)
    options = parser.parse_args()
    configure_logging("ERROR")
    with TemporaryDirectory(prefix="songs-ai-uplift-") as name, threadpool_limits(1, user_api="blas"):
        directory = Path(name) / "lastfm"
        directory.mkdir()
        write_dataset(options.data, directory)
        study = prepare(directory, PROTOCOL, n_users=options.users, budget_s=options.budget_s, seed=SEED)
        asyncio.run(measure(study, directory, Console(width=150)))


if __name__ == "__main__":
    main()
