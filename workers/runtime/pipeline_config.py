"""The pipeline's own settings, and the version that tells answers of different settings apart."""

from hashlib import blake2b

from config.catalogue_profile import CatalogueProfile
from config.settings import Settings
from core.profile import ProfileConfig
from core.question import PipelineConfig
from core.ranking import RankingConfig
from core.result_document import DOCUMENT_VERSION
from models.recommendation import Discovery

# The settings that change what is recommended; the others only change how.
_ANSWER_SETTINGS = (
    "aversion",
    "discovery_mix",
    "discovery_share",
    "diversity",
    "group_items",
    "interest_half_life_days",
    "llm_order_weight",
    "llm_strategies",
    "llm_temperature",
    "max_per_creator",
    "n_interests",
    "recent_half_life_days",
    "recent_share",
    "repetition",
    "time_zone",
)


def pipeline_config(settings: Settings, profile: CatalogueProfile) -> PipelineConfig:
    """What the pipeline is told; its ``version`` changes with whatever changes an answer."""
    told = [f"{name}={getattr(settings, name)}" for name in _ANSWER_SETTINGS]
    digest = blake2b("\n".join([*told, profile.model_dump_json(), str(DOCUMENT_VERSION)]).encode(), digest_size=6)
    return PipelineConfig(
        version=digest.hexdigest(),
        default_locale=settings.default_locale,
        time_zone=settings.time_zone,
        default_top_k=settings.default_top_k,
        max_top_k=settings.max_top_k,
        group_items=settings.group_items,
        llm_share=settings.llm_share,
        llm_experiment=settings.llm_experiment,
        aversion=settings.aversion,
        repetition=settings.repetition,
        profile=ProfileConfig(
            n_interests=settings.n_interests,
            half_life_days=settings.interest_half_life_days,
            recent_half_life_days=settings.recent_half_life_days,
            recent_share=settings.recent_share,
        ),
        ranking=RankingConfig(
            diversity=settings.diversity,
            max_per_creator=settings.max_per_creator,
            discovery_share=settings.discovery_share,
            discovery_mix={Discovery(name): weight for name, weight in settings.discovery_mix.items()},
        ),
    )
