"""Tables and cells of Markdown."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already, without the columns in which nothing stands."""
    found = list(rows)
    told = [number for number in range(len(head)) if any(row[number] for row in found)]
    lines = [head, ["---"] * len(head), *found]
    return "\n".join(f"| {' | '.join(line[number] for number in told)} |" for line in lines)


def plain(text: str) -> str:
    """A cell that shows ``text`` as it stands, on one line, without Markdown's or HTML's meaning of its signs."""
    escaped = "".join(f"\\{sign}" if sign in r"\`*_{}[]|#" else sign for sign in " ".join(text.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;")


def code(text: object) -> str:
    """A cell that shows ``text`` as code; empty for nothing."""
    # Python-Markdown's tables, unlike GitHub's, take a bar in code for what it is.
    return f"`{text}`" if str(text) else ""


def codes(values: Iterable[object]) -> str:
    """The same, one after the other."""
    return ", ".join(map(code, values))
