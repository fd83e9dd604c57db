"""What MkDocs calls as it builds the site: pages made of the code, and links to files of the repository."""

import json
import posixpath
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

from docs.from_code import api_page, command_page, metrics_page, settings_page
from docs.from_code.linked_files import outside, page_of, relinked, source_page
from main import app

ROOT = Path(__file__).parents[2]
CHANGELOG = "changelog.md"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give headings the anchors that hosts of repositories give them, for links that hold in both places."""
    config.mdx_configs["toc"]["slugify"] = slugify(case="lower")
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is made of the code, and the files that pages link to."""
    document = api_page.document()
    made = {
        "reference/settings.md": settings_page.page(ROOT / ".env.example"),
        "reference/commands.md": command_page.page(app),
        "reference/series.md": metrics_page.page(),
        "reference/routes.md": api_page.page(document),
        "reference/openapi.json": json.dumps(document, ensure_ascii=False, indent=1),
        CHANGELOG: relinked((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), "", CHANGELOG),
    }
    for path in _linked(files):
        made[page_of(path)] = source_page(ROOT, path)
    for src_uri, content in made.items():
        files.append(File.generated(config, src_uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Point links at what they lead to within the site."""
    if page.file.generated_by:
        return markdown
    return relinked(markdown, posixpath.join("docs", posixpath.dirname(page.file.src_uri)), page.file.src_uri)


def _linked(files: Files) -> list[str]:
    found = dict.fromkeys(outside((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), ""))
    for file in files.documentation_pages():
        found |= dict.fromkeys(outside(file.content_string, posixpath.join("docs", posixpath.dirname(file.src_uri))))
    return list(found)
