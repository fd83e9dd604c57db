"""The catalogue as a whole, for pages that draw it."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import ConfigDict

from api.query import KNOWN_ALONE, limit_or_n
from api.refusals import READ, away, documented, too_large, unknown_parameter
from api.shapes import EXAMPLE_ITEM, ItemShape, Shape
from core.catalogue_view import MAX_POINTS, CatalogueView, CatalogueViewer, MapPoint


class CountShape(Shape):
    """How many items have that name as a genre, or as their creator."""

    name: str
    items: int


class CatalogueShape(Shape):
    """What there is; ``popularity``: how many items lie in each tenth of the scale from 0 to 1."""

    n_items: int
    genres: Sequence[CountShape]
    creators: Sequence[CountShape]
    popularity: Sequence[int]
    popular: Sequence[ItemShape]

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "nItems": 2000,
                "genres": [{"name": "pop", "items": 700}],
                "creators": [{"name": "YENA", "items": 12}],
                "popularity": [900, 500, 250, 150, 80, 50, 30, 20, 15, 5],
                "popular": [EXAMPLE_ITEM],
            }
        }
    )

    @classmethod
    def of(cls, view: CatalogueView) -> "CatalogueShape":
        """``view`` as answers show it."""
        return cls(
            n_items=view.n_items,
            genres=[CountShape(name=name, items=n) for name, n in view.genres],
            creators=[CountShape(name=name, items=n) for name, n in view.creators],
            popularity=view.popularity,
            popular=[ItemShape.of(item) for item in view.popular],
        )


class PointShape(Shape):
    """An item at its place of the map; both coordinates run from -1 to 1, ``genre`` is its first one.

    ``title`` is one of ``titles``, the Korean one where there is one.
    """

    item_id: int
    title: str
    titles: Mapping[str, str]
    creator: str
    creator_local: str | None
    genre: str | None
    x: float
    y: float

    @classmethod
    def of(cls, point: MapPoint) -> "PointShape":
        """``point`` as answers show it."""
        item = point.item
        return cls(
            item_id=item.item_id,
            title=item.title("ko"),
            titles=dict(item.titles),
            creator=item.creator or "",
            creator_local=item.creator_local,
            genre=item.genres[0] if item.genres else None,
            x=round(point.x, 4),
            y=round(point.y, 4),
        )


class MapShape(Shape):
    """The embeddings in two dimensions; ``explained``: the share of their variance that each of the two tells."""

    points: Sequence[PointShape]
    explained: Sequence[float]

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "points": [
                    {
                        "itemId": 4711,
                        "title": "비틀비틀 짝짜꿍",
                        "titles": {"ko": "비틀비틀 짝짜꿍", "en": "Wobble Clap"},
                        "creator": "YENA",
                        "creatorLocal": "최예나",
                        "genre": "pop",
                        "x": 0.3127,
                        "y": -0.0841,
                    }
                ],
                "explained": [0.1741, 0.0932],
            }
        }
    )


def catalogue_view_router(viewer: CatalogueViewer) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["catalogue"], dependencies=[KNOWN_ALONE], responses=documented(READ) | away("mysql"))

    @router.get("/catalogue", summary="How much there is of what", responses=unknown_parameter())
    async def catalogue() -> CatalogueShape:
        """How much there is of what, and what is most popular, of the items that can be recommended."""
        return CatalogueShape.of(await viewer.view())

    @router.get("/catalogue/map", summary="The embeddings in two dimensions", responses=too_large("limit", MAX_POINTS))
    async def catalogue_map(limit: Annotated[int, Depends(limit_or_n(1000, MAX_POINTS))]) -> MapShape:
        """At most ``limit`` items, from the most popular to the least, at their place among all embeddings."""
        found = await viewer.map(limit)
        explained = [round(share, 4) for share in found.explained]
        return MapShape(points=[PointShape.of(point) for point in found.points], explained=explained)

    return router
