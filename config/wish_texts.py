"""The words that only wishes need: what the model is told of one, and sentences that say it was met.

They are data in ``config/wishes``, apart from the other texts, so that a new wording is a new answer for wishes alone.
"""

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

WISHES = Path(__file__).parent / "wishes"


class WishPhrases(BaseModel):
    """Templates for ``str.format``; ``wish`` is what of it an item has, by the names of the profile's table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason_wish: str
    reason_wish_near: str
    reason_wish_close: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WishTexts:
    """All of them; ``version`` is a digest."""

    instructions: str
    phrases: Mapping[str, WishPhrases]
    version: str


def load_wish_texts(directory: Path = WISHES) -> WishTexts:
    """The texts of ``directory``. Raises ``ValueError`` naming the file, and what is wrong in it."""
    files = [directory / "instructions.md", *sorted(directory.glob("*.toml"))]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return WishTexts(
        instructions=files[0].read_text(encoding="utf-8").strip(),
        phrases={file.stem: _load(file) for file in files[1:]},
        version=digest.hexdigest()[:12],
    )


def _load(file: Path) -> WishPhrases:
    try:
        return WishPhrases.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise ValueError(f"wishes: {file}: {error}") from error
