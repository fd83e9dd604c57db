"""Who may ask: the API key, and pages of other sites in a browser."""

from collections.abc import Collection
from hashlib import blake2b
from hmac import compare_digest
from http import HTTPStatus

from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from api.responses import problem

PERSONAL = ("/members/", "/jobs/", "/dead-letters")
"""What tells of members: as much as what ``POST /recommend/cached`` answers, which needs the key as well."""
NO_KEY = "the API key is missing or wrong: send Authorization: Bearer KEY, or X-API-Key: KEY"
FOREIGN_PAGE = "a page of another site may not ask this of a browser"
READS = frozenset({"GET", "HEAD"})
ALWAYS_OPEN = frozenset({"/health/live", "/health/started"})
"""Say that the process runs, or was ready once, and no more: restarts are decided by them, where there is no key."""


class AccessRule:
    """Lets a request through, or answers it before a byte of its body is read.

    With a key every request that is no read must bring it, and with ``keyed_reads`` every read but ``ALWAYS_OPEN`` too.
    So must a read of what is ``PERSONAL``. Paths that do not exist are no exception: a route is keyed unless it is made
    open here. Without a key, what a browser sends from another site's page is still refused, or any page could spend
    what an LLM costs, unless it is a page of one of ``origins`` (such as ``https://songs.example``).
    """

    def __init__(
        self, app: ASGIApp, *, key: SecretStr, keyed_reads: bool, origins: Collection[str] = frozenset()
    ) -> None:
        self._app = app
        self._origins = frozenset(origin.encode() for origin in origins)
        self._digest = _digest(key.get_secret_value().encode()) if key.get_secret_value() else None
        self._keyed_reads = keyed_reads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http" or self._is_open(scope):
            await self._app(scope, receive, send)
        elif self._digest is None:
            response = problem(HTTPStatus.FORBIDDEN, FOREIGN_PAGE)
            await response(scope, receive, send)
        else:
            response = problem(HTTPStatus.UNAUTHORIZED, NO_KEY, headers={"WWW-Authenticate": "Bearer"})
            await response(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        if self._digest is None:
            is_read = scope["method"] in READS
            return is_read or not _is_of_another_site(scope) or self._is_of_a_known_origin(scope)
        if not needs_key(scope["method"], scope["path"], keyed_reads=self._keyed_reads):
            return True
        matches = [compare_digest(_digest(given), self._digest) for given in _keys(scope)]
        return any(matches)

    def _is_of_a_known_origin(self, scope: Scope) -> bool:
        """By the header that a browser sends with every request of another site's page, and no page can change."""
        return any(name == b"origin" and value in self._origins for name, value in scope["headers"])


def needs_key(method: str, path: str, *, keyed_reads: bool) -> bool:
    """Whether such a request must bring the key, where there is one."""
    if method not in READS:
        return True
    return path not in ALWAYS_OPEN and (keyed_reads or path.startswith(PERSONAL))


def _keys(scope: Scope) -> list[bytes]:
    """Every key that the headers bring; one that stands twice counts twice."""
    keys = []
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            keys.append(value.strip())
        elif name == b"authorization":
            scheme, _, given = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                keys.append(given.strip())
    return keys


def _digest(key: bytes) -> bytes:
    # ``compare_digest`` tells lengths apart; of digests there is one.
    return blake2b(key, digest_size=32).digest()


def _is_of_another_site(scope: Scope) -> bool:
    """Whether a browser says so (Fetch Metadata, W3C); no other client sends this header."""
    sites = {value for name, value in scope["headers"] if name == b"sec-fetch-site"}
    return bool(sites - {b"same-origin", b"none"})
