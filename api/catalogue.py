"""The catalogue to look at: search by name, one item, and what is like it."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.exceptions import HTTPException

from api.query import KNOWN_ALONE, limit_or_n
from api.refusals import READ, away, documented, no_integer, not_found, too_large
from api.shapes import FoundPageShape, IdInPath, ItemShape
from core.browsing import MAX_FOUND, ItemBrowser

MAX_PAGE = 100
_Asked = Annotated[
    str,
    Query(
        alias="q",
        min_length=1,
        max_length=200,
        examples=["비틀비틀", "ㅂㅌㅂㅌ", "よるにかける", "smels like teen sprit"],
    ),
]


def catalogue_router(browser: ItemBrowser) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["catalogue"], dependencies=[KNOWN_ALONE], responses=documented(READ) | away("mysql"))

    @router.get("/search", summary="Find items by name", responses=too_large("limit", MAX_PAGE) | away("search"))
    async def search(
        asked: _Asked,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20,
        offset: Annotated[int, Query(ge=0, le=MAX_FOUND)] = 0,
    ) -> FoundPageShape:
        """Items whose titles or creators are like ``q``, best first.

        Hangul (also its initial consonants, ㅂㅌㅂㅌ), kana, Chinese characters and Latin letters; a slip of the finger
        is forgiven. At most 200 items are found, all pages together.
        """
        page = await browser.search(asked, limit, offset)
        return FoundPageShape.of(page)

    @router.get(
        "/items/{item_id}", summary="One item", responses=not_found("there is no item 4711") | no_integer("item_id")
    )
    async def item(item_id: IdInPath) -> ItemShape:
        """One item, or 404 where there is none, or none any more."""
        found = await browser.item(item_id)
        if found is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"there is no item {item_id}")
        return ItemShape.of(found)

    unlike = not_found("there is no item 4711 that others could be like")

    @router.get(
        "/items/{item_id}/similar",
        summary="What is most like an item",
        responses=unlike | too_large("limit", MAX_PAGE) | away("index"),
    )
    async def similar(
        item_id: IdInPath,
        limit: Annotated[int, Depends(limit_or_n(20, MAX_PAGE))],
        offset: Annotated[int, Query(ge=0, le=MAX_FOUND)] = 0,
    ) -> FoundPageShape:
        """The items that are most like one by content, one version of each work, or 404 where it is not known.

        ``limit`` of them from ``offset`` on; at most 200, all pages together.
        """
        page = await browser.similar(item_id, limit, offset)
        if page is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"there is no item {item_id} that others could be like")
        return FoundPageShape.of(page)

    return router
