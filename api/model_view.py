"""The fitted models: their versions, what was measured of each, and how one came to be in force."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime

from fastapi import APIRouter
from pydantic import ConfigDict

from api.query import KNOWN_ALONE
from api.refusals import READ, away, documented, unknown_parameter
from api.shapes import Shape
from core.ports.model_store import ModelOrigin, ModelRegistry, Promotion, StoredVersion


class VersionShape(Shape):
    """A version that is kept; ``metrics`` are what its fitting measured, ``dataUntil`` the newest that is in it."""

    kind: str
    version: str
    created_at: datetime
    active: bool
    previous: bool
    n_bytes: int
    metrics: Mapping[str, float]
    data_until: datetime | None
    data_figures: Mapping[str, object]

    @classmethod
    def of(cls, version: StoredVersion, origin: ModelOrigin | None) -> "VersionShape":
        """``version`` as answers show it."""
        figures = json.loads(origin.data_figures) if origin else {}
        return cls(
            kind=version.kind,
            version=version.version,
            created_at=version.created_at,
            active=version.active,
            previous=version.previous,
            n_bytes=version.n_bytes,
            metrics=version.metrics,
            data_until=origin.data_until if origin else None,
            data_figures=figures if isinstance(figures, dict) else {},
        )


class PromotionShape(Shape):
    """That a version was put in force; ``cause`` is ``fit``, ``promote``, ``rollback`` or ``activate``."""

    kind: str
    version: str
    replaced: str | None
    cause: str
    reason: str
    promoted_at: datetime

    @classmethod
    def of(cls, promotion: Promotion) -> "PromotionShape":
        """``promotion`` as answers show it."""
        return cls(
            kind=promotion.kind,
            version=promotion.version,
            replaced=promotion.replaced,
            cause=promotion.cause,
            reason=promotion.reason,
            promoted_at=promotion.promoted_at,
        )


class ModelsShape(Shape):
    """``versions`` newest first, ``promotions`` oldest first."""

    versions: Sequence[VersionShape]
    promotions: Sequence[PromotionShape]

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "versions": [
                    {
                        "kind": "collaborative",
                        "version": "20260131T040000Z-1f3870be",
                        "createdAt": "2026-01-31T04:00:00Z",
                        "active": True,
                        "previous": False,
                        "nBytes": 1048576,
                        "metrics": {"ndcg": 0.31, "recall": 0.28},
                        "dataUntil": "2026-01-31T03:59:00Z",
                        "dataFigures": {},
                    }
                ],
                "promotions": [],
            }
        }
    )


def model_view_router(registry: ModelRegistry, kinds: Sequence[str]) -> APIRouter:
    """The route, of models of these kinds."""
    router = APIRouter(tags=["models"], dependencies=[KNOWN_ALONE], responses=documented(READ) | away("mysql"))

    @router.get("/models", summary="Versions of the fitted models", responses=unknown_parameter())
    async def models() -> ModelsShape:
        """Every version that is kept, and how the ones in force came to be so."""
        versions: list[VersionShape] = []
        promotions: list[PromotionShape] = []
        for kind in kinds:
            promotions += [PromotionShape.of(each) for each in await registry.promotions(kind)]
            kept = await registry.versions(kind)
            versions += [VersionShape.of(each, await registry.origin(kind, each.version)) for each in kept]
        return ModelsShape(versions=versions, promotions=promotions)

    return router
