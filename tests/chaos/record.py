"""Rows of docs/reliability.md, each appended as the run that it tells of ends."""

from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"


def with_row(document: str, mark: str, row: str) -> str:
    """``document`` with ``row`` at the end of the table that ``mark`` follows."""
    if mark not in document:
        raise ValueError(f"docs/reliability.md has no {mark}")
    return document.replace(mark, f"{row}\n{mark}", 1)


def append(mark: str, row: str) -> None:
    """Write ``row`` into the page."""
    DOCUMENT.write_text(with_row(DOCUMENT.read_text(encoding="utf-8"), mark, row), encoding="utf-8")
