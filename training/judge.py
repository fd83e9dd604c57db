"""The language model that is measured, and what asks it and reads its answers as serving does."""

from dataclasses import dataclass

from config.token_price import TokenPrice
from core.item_versions import VersionFinder
from core.ports.clock import Clock
from core.ports.language_model import LanguageModel, Prompt
from core.question import PipelineConfig
from core.reranking import Reranker
from training.kept_answers import question_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """What is measured, as serving has it; ``endpoint`` tells models of one name apart, ``price`` may be unknown.

    ``order_weight`` is that of ``reranker``.
    """

    language_model: LanguageModel
    reranker: Reranker
    config: PipelineConfig
    versions: VersionFinder
    clock: Clock
    order_weight: float
    locale: str
    endpoint: str = ""
    price: TokenPrice | None = None

    @property
    def model(self) -> str:
        """The name of the model that is asked."""
        return self.language_model.name(deep=False)

    def question_id(self, prompt: Prompt) -> str:
        """What the answer is kept under."""
        return question_id(prompt, f"{self.model} {self.endpoint}")
