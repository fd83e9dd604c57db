"""The routes that the dashboard reads beside those that everybody has."""

from collections.abc import Sequence

from fastapi import APIRouter

from api.catalogue_view import catalogue_view_router
from api.dead_letters import dead_letters_router
from api.member_view import member_view_router
from api.model_view import model_view_router
from core.catalogue_view import CatalogueViewer
from core.fitted_collaborative import MODEL_KIND
from core.member_view import MemberViewer
from services.listener_store import SqlListenerStore
from services.logs import mask_secrets
from workers.dead_letter_desk import BrokerDeadLetterDesk
from workers.runtime.parts import Parts


def page_routers(parts: Parts) -> Sequence[APIRouter]:
    """All of them, over connected parts."""
    member_viewer = MemberViewer(
        listeners=SqlListenerStore(parts.database, parts.profile),
        catalogue=parts.catalogue,
        results=parts.results,
        id_field=parts.profile.id_field,
    )
    desk = BrokerDeadLetterDesk(parts.broker, parts.results, parts.clock, mask=mask_secrets)
    return (
        catalogue_view_router(CatalogueViewer(parts.catalogue, parts.index)),
        member_view_router(member_viewer, parts.members),
        model_view_router(parts.models, (MODEL_KIND,)),
        dead_letters_router(desk),
    )
