"""Which route a path is of, by the template that the OpenAPI document calls it."""

import re
from collections.abc import Iterable

from starlette.routing import compile_path


class RouteTemplates:
    """The templates, such as ``/items/{item_id}``; a path that is a template by itself is of that one."""

    def __init__(self, templates: Iterable[str]) -> None:
        known = frozenset(templates)
        self._plain = frozenset(template for template in known if "{" not in template)
        self._patterns: list[tuple[re.Pattern[str], str]] = [
            (compile_path(template)[0], template) for template in sorted(known - self._plain)
        ]

    def of(self, path: str) -> str:
        """The template that ``path`` is of; empty where it is of none."""
        if path in self._plain:
            return path
        return next((template for pattern, template in self._patterns if pattern.match(path)), "")
