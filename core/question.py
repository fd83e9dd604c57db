"""A job with everything resolved that its publisher left open, and the settings that it is answered by."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from core.llm_share import Arm
from core.ports.collaborative import CollaborativeSource
from core.ports.index import ItemIndex
from core.profile import ProfileConfig
from core.ranking import RankingConfig
from core.repetition import Shown
from core.wish import Wish
from models.catalogue import Listener
from models.job import Job, Strategy

LOCALES = ("ko", "ja", "en")


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineConfig:
    """How much of everything. ``version`` stands for all settings that change an answer; it enters the fingerprint.

    ``aversion`` (0 to 1): how far what is like something disliked falls; ``repetition``: how fast what is shown again.
    """

    version: str
    default_locale: str = "ko"
    time_zone: str = "Asia/Seoul"
    default_top_k: int = 50
    max_top_k: int = 500
    group_items: int = 20
    overask: int = 3
    n_spare: int = 40
    n_likes_shown: int = 60
    max_owned: int = 1000
    llm_share: float = 1.0
    llm_experiment: str = "llm"
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    ranking: RankingConfig = field(default_factory=RankingConfig)
    aversion: float = 0.5
    repetition: float = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A job with everything resolved that the publisher left open."""

    job: Job
    listener: Listener
    index: ItemIndex
    collaborative: CollaborativeSource | None
    locale: str
    top_k: int
    fingerprint: str
    versions: Mapping[str, str]
    arm: Arm
    wish: Wish | None
    shown: Mapping[int, Shown] = field(default_factory=dict)

    @property
    def strategy(self) -> Strategy:
        """What the job may spend in its arm."""
        return self.arm.strategy(self.job.strategy)

    @property
    def excluded_ids(self) -> frozenset[int]:
        """What must not be recommended."""
        return self.listener.seen_ids | self.listener.disliked_ids
