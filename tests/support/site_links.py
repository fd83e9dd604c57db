"""A built site as its reader meets it: where its links lead, and what its pages would fetch from elsewhere."""

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data", "embed": "src"}
_FETCHING_RELATIONS = {"stylesheet", "preconnect", "preload", "prefetch", "dns-prefetch", "icon", "modulepreload"}
_IN_STYLES = re.compile(r"(?:url\(\s*['\"]?|@import\s+['\"])((?:https?:)?//[^'\")\s]+)")


@dataclass
class _Page(HTMLParser):
    """What one page holds of ids, links and things to fetch."""

    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    classes: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if given.get(name)}
        self.classes |= set(given.get("class", "").split())
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if given.get(_FETCHED.get(tag, "")):
            self.fetched.append(given[_FETCHED[tag]])
        if tag == "link" and _FETCHING_RELATIONS & set(given.get("rel", "").split()):
            self.fetched.append(given["href"])


def dead_links(site: Path) -> list[str]:
    """Links and pictures of pages under ``site`` that lead to no file, or to no place in it; other sites aside."""
    pages = {str(path.relative_to(site)): _parsed(path) for path in sorted(site.rglob("*.html"))}
    found = []
    for name, page in pages.items():
        for link in (*page.links, *page.fetched):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or name == "404.html":  # which is shown under any address
                continue
            target = (
                posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(parts.path))) if parts.path else name
            )
            if not (site / target).exists():
                found.append(f"{name}: {link}: no such file")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
                found.append(f"{name}: {link}: no such place")
    return found


def fetched_from_elsewhere(site: Path) -> list[str]:
    """Addresses at other sites that a browser asks for when it shows a page."""
    found = []
    for path in sorted(site.rglob("*.html")):
        page = _parsed(path)
        found += [f"{path.name}: {each}" for each in page.fetched if urlsplit(each).netloc]
        if "mermaid" in page.classes:  # the theme would load what draws them from a CDN
            found.append(f"{path.name}: a mermaid diagram")
    return [*found, *_of_styles(site)]


def _of_styles(site: Path) -> Iterator[str]:
    for path in (*site.rglob("*.css"), *site.rglob("*.html")):
        for address in _IN_STYLES.findall(path.read_text(encoding="utf-8")):
            yield f"{path.name}: {address}"


def _parsed(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page
