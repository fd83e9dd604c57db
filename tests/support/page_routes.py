"""The routes of the dashboard over the small catalogue, with stand-ins for members, model versions and dead letters."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from core.catalogue_view import CatalogueViewer
from core.dead_letter_desk import DeadLetterNote, DeadLetterPage
from core.errors import DependencyUnavailable
from core.member_view import MemberViewer
from core.ports.model_store import ModelOrigin, Promotion, StoredVersion
from core.ports.results import ResultCache
from models.catalogue import Listener
from tests.support.small_catalogue import Showroom


@dataclass
class FixedListeners:
    """Members as a test puts them; others are unknown."""

    known: dict[int, Listener] = field(default_factory=dict)

    async def listener(self, member_id: int) -> Listener:
        return self.known.get(member_id, Listener(member_id=member_id))


@dataclass
class FixedModels:
    """What was fitted, as a test says."""

    kept: list[StoredVersion] = field(default_factory=list)
    origins: dict[str, ModelOrigin] = field(default_factory=dict)
    promoted: list[Promotion] = field(default_factory=list)

    async def versions(self, kind: str) -> Sequence[StoredVersion]:
        return [each for each in self.kept if each.kind == kind]

    async def origin(self, kind: str, version: str) -> ModelOrigin | None:
        return self.origins.get(version)

    async def promotions(self, kind: str) -> Sequence[Promotion]:
        return [each for each in self.promoted if each.kind == kind]


@dataclass
class FixedDesk:
    """Dead letters in a list; while it ``is_away`` nothing is answered."""

    letters: list[DeadLetterNote] = field(default_factory=list)
    is_away: bool = False

    async def oldest(self, n: int) -> DeadLetterPage:
        self._check()
        return DeadLetterPage(self.letters[:n], len(self.letters))

    async def replay(self, letter_ids: Collection[str]) -> Mapping[str, str]:
        self._check()
        sent = [each for each in self.letters if each.letter_id in letter_ids]
        self.letters = [each for each in self.letters if each not in sent]
        return {each.letter_id: "replayed" for each in sent}

    def _check(self) -> None:
        if self.is_away:
            raise DependencyUnavailable("broker", "ConnectionError at amqp://guest:guest@broker/")


@dataclass
class Pages:
    """What the routes are given, for a test to change."""

    listeners: FixedListeners = field(default_factory=FixedListeners)
    models: FixedModels = field(default_factory=FixedModels)
    desk: FixedDesk = field(default_factory=FixedDesk)

    def catalogue_viewer(self, shown: Showroom) -> CatalogueViewer:
        return CatalogueViewer(shown.catalogue, shown.index)

    def member_viewer(self, shown: Showroom, results: ResultCache) -> MemberViewer:
        return MemberViewer(listeners=self.listeners, catalogue=shown.catalogue, results=results, id_field="song_id")
