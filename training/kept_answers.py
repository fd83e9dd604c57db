"""Answers of a language model in a file, so that what was paid for is never asked again."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path

from core.errors import ConfigurationError
from core.ports.language_model import Completion, Prompt

_DIGEST_BYTES = 16
_TABLE = (
    "CREATE TABLE IF NOT EXISTS answer (question TEXT PRIMARY KEY, completion TEXT NOT NULL, seconds REAL NOT NULL)"
)


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer, and how long it took."""

    completion: Completion
    seconds: float


class KeptAnswers:
    """Each answer is on the disk when ``put`` returns; one file serves any number of models and data sets."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def get(self, question: str) -> Kept | None:
        """The answer to a ``question_id``, or None."""
        row = self._connection.execute(
            "SELECT completion, seconds FROM answer WHERE question = ?", (question,)
        ).fetchone()
        return Kept(Completion(**json.loads(row[0])), row[1]) if row else None

    def put(self, question: str, kept: Kept) -> None:
        """Keep it."""
        completion = json.dumps(asdict(kept.completion), ensure_ascii=False)
        with self._connection:
            self._connection.execute(
                "INSERT OR REPLACE INTO answer VALUES (?, ?, ?)", (question, completion, kept.seconds)
            )


@contextmanager
def open_kept_answers(path: Path) -> Iterator[KeptAnswers]:
    """The answers in ``path``, which is made where it is absent; raises ``ConfigurationError``."""
    try:
        connection = sqlite3.connect(path)
        with connection:
            connection.execute(_TABLE)
    except sqlite3.Error as error:
        raise ConfigurationError(f"{path}: answers can not be kept there: {error}") from error
    try:
        yield KeptAnswers(connection)
    finally:
        connection.close()


def question_id(prompt: Prompt, model: str) -> str:
    """32 hexadecimal digits over all that an answer depends on; ``model`` names it and where it is."""
    parts = [model, prompt.system, prompt.user, prompt.schema_name, prompt.schema, prompt.max_output_tokens]
    return blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=_DIGEST_BYTES).hexdigest()
