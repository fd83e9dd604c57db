"""One line of plain text out of anything: titles on their way to a model, a model's words on their way back."""

import re

# Addresses, tags, entities, links and fences: what a page or a client would make something of.
_MARKUP = re.compile(
    r"://|\bwww\.|\b(?:javascript|data|mailto|tel):\S|\b[\w-]+\.(?:com|net|org|io|kr|jp|co|app|xyz|link|info|biz|ru|cn)\b"
    r"|\S@\S+\.\w|<\s*[/!?a-z]|&(?:#\w+|\w{2,8});|\]\s*[(\[]|`|\*\*|~~|\{\{|\$\{",
    re.IGNORECASE,
)


def plain_line(text: str, max_chars: int) -> str:
    """``text`` on one line, without control and format characters or lone surrogates, cut at ``max_chars``."""
    if not text.isprintable():
        text = "".join(char if char.isprintable() else " " if char.isspace() else "" for char in text)
    return clipped(" ".join(text.split()), max_chars)


def clipped(line: str, max_chars: int) -> str:
    """``line`` with what is beyond ``max_chars`` left out, and an ellipsis in its place."""
    return line if len(line) <= max_chars else line[: max_chars - 1].rstrip() + "…"


def has_markup(line: str) -> bool:
    """Whether ``line`` holds what is more than words: an address, a tag, a link, code."""
    return _MARKUP.search(line) is not None
