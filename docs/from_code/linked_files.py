"""Files of the repository that pages link to, as pages of the site: where it is read there may be no repository."""

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path

_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)#\s]+)(#[^)\s]*)?(?=\))")
_FENCE = re.compile(r"^(`{3,}|~{3,}).*?^\1[^\S\n]*$", re.MULTILINE | re.DOTALL)
_LANGUAGES = {".py": "python", ".yml": "yaml", ".yaml": "yaml", ".toml": "toml", ".json": "json", ".js": "javascript"}
# Pages of the site that are files at the root.
_PAGES = {"CHANGELOG.md": "changelog.md", "README.md": "index.md"}


def outside(markdown: str, directory: str) -> Iterator[str]:
    """Paths, from the root, of what the page in ``directory`` links to outside of ``docs``, but for pages."""
    for target in _targets(markdown):
        path = posixpath.normpath(posixpath.join(directory, target))
        if not path.startswith("docs/") and path not in _PAGES:
            yield path


def relinked(markdown: str, directory: str, src_uri: str) -> str:
    """``markdown`` of a file in ``directory``, with its links as the page ``src_uri`` of the site has them."""

    def replaced(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(directory, link[1]))
        found = target.removeprefix("docs/") if target.startswith("docs/") else _PAGES.get(target, page_of(target))
        return posixpath.relpath(found, posixpath.dirname(src_uri) or ".") + (link[2] or "")

    return _outside_of_fences(markdown, lambda text: _LINK.sub(replaced, text))


def page_of(path: str) -> str:
    """The page that shows the file, or the directory, at ``path`` from the root."""
    # A name that begins with a dot would be left out of the site.
    return f"source/{path.lstrip('.').rstrip('/')}.md"


def source_page(root: Path, path: str) -> str:
    """The page itself. Raises ``FileNotFoundError`` where nothing is there."""
    place = root / path
    head = f"---\nsearch:\n  exclude: true\n---\n\n# {path}\n\n"
    if place.is_dir():
        return head + "\n".join(f"- `{each.relative_to(root)}`" for each in sorted(place.rglob("*")) if each.is_file())
    text = place.read_text(encoding="utf-8")
    return f"{head}````{_LANGUAGES.get(place.suffix, 'text')}\n{text.rstrip()}\n````\n"


def _targets(markdown: str) -> Iterator[str]:
    for link in _LINK.finditer(_FENCE.sub("", markdown)):
        yield link[1]


def _outside_of_fences(markdown: str, change: Callable[[str], str]) -> str:
    parts, at = list[str](), 0
    for fence in _FENCE.finditer(markdown):
        parts += [change(markdown[at : fence.start()]), fence[0]]
        at = fence.end()
    return "".join([*parts, change(markdown[at:])])
