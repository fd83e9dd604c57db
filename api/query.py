"""What may stand in the query of a request."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Annotated

from fastapi import Depends, Query, Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError

NO_SUCH_PARAMETER = "there is no such parameter here"
_ONE_NAME = "is another name of limit: send one of the two"


async def _refuse_unknown(request: Request) -> None:
    """Raises ``RequestValidationError`` with each parameter that the route does not have: it is a slip."""
    if not request.query_params:
        return
    known = set(_names(request.scope["route"].dependant))
    errors = [
        {"type": "value_error", "loc": ("query", name), "msg": NO_SUCH_PARAMETER, "input": value}
        for name, value in request.query_params.items()
        if name not in known
    ]
    if errors:
        raise RequestValidationError(errors)


KNOWN_ALONE = Depends(_refuse_unknown)
"""For routers of ours; those of the wire contract ignore what they do not know, as they always did."""


def limit_or_n(default: int, most: int) -> Callable[..., Awaitable[int]]:
    """A dependency: ``limit``, which was called ``n`` once, and still may be."""

    async def limit_of(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=most)] = default,
        n: Annotated[int | None, Query(ge=1, le=most, include_in_schema=False)] = None,
    ) -> int:
        if n is None:
            return limit
        if "limit" in request.query_params:
            error = {"type": "value_error", "loc": ("query", "n"), "msg": _ONE_NAME, "input": str(n)}
            raise RequestValidationError([error])
        return n

    return limit_of


def _names(dependant: Dependant) -> Iterator[str]:
    yield from (param.alias for param in dependant.query_params)
    for inner in dependant.dependencies:
        yield from _names(inner)
