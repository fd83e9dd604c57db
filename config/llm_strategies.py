"""What each strategy of a job sends to the LLM and may spend: one small table, changed by ``LLM_STRATEGIES``."""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_CALLS = {"fast": 0, "default": 1, "deep": 2}
"""What the strategies are: ``fast`` asks no model, ``default`` once, ``deep`` twice at the most."""

_DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "fast": {
        "model": "", "n_candidates": 100, "n_likes": 0, "n_explained": 0,
        "max_calls": 0, "max_prompt_tokens": 0, "max_completion_tokens": 0,
    },
    "default": {
        "model": "gpt-4.1-mini", "n_candidates": 100, "n_likes": 30, "n_explained": 20,
        "max_calls": 1, "max_prompt_tokens": 2600, "max_completion_tokens": 2400,
    },
    "deep": {
        "model": "gpt-4.1", "n_candidates": 240, "n_likes": 30, "n_explained": 20,
        "max_calls": 2, "max_prompt_tokens": 5200, "max_completion_tokens": 2400,
    },
}  # fmt: skip

# Instructions and schema take 700 tokens by estimate, the longest wish as many again.
_LEAST_PROMPT_TOKENS, _LEAST_COMPLETION_TOKENS = 1600, 800


class StrategyLimits(BaseModel):
    """A row: of one strategy.

    ``max_calls`` counts questions; retries and the fallback model answer the same one. Tokens are those of one call,
    the prompt's with its response format; fewer and shorter lines are sent, and fewer explanations asked for, where
    they would be passed. ``n_candidates`` are ranked where no model is asked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    fallback_model: str = ""
    n_candidates: int = Field(ge=1, le=500)
    n_likes: int = Field(ge=0, le=60)
    n_explained: int = Field(ge=0, le=100)
    max_calls: Literal[0, 1, 2]
    max_prompt_tokens: int = Field(ge=0)
    max_completion_tokens: int = Field(ge=0)

    @model_validator(mode="after")
    def _can_ask(self) -> Self:
        if not self.max_calls:
            return self
        if not self.model:
            raise ValueError("model: none is named, though max_calls is above 0")
        if not 1 <= self.n_explained <= self.n_candidates:
            raise ValueError("n_explained: must be from 1 to n_candidates where a model is asked")
        if self.max_prompt_tokens < _LEAST_PROMPT_TOKENS:
            raise ValueError(f"max_prompt_tokens: must be {_LEAST_PROMPT_TOKENS} or more where a model is asked")
        if self.max_completion_tokens < _LEAST_COMPLETION_TOKENS:
            raise ValueError(
                f"max_completion_tokens: must be {_LEAST_COMPLETION_TOKENS} or more where a model is asked"
            )
        return self


class StrategyTable(BaseModel):
    """All rows. What is given of a row is merged over its defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fast: StrategyLimits
    default: StrategyLimits
    deep: StrategyLimits

    def __getitem__(self, strategy: str) -> StrategyLimits:
        return {"fast": self.fast, "default": self.default, "deep": self.deep}[strategy]

    @property
    def models(self) -> tuple[str, ...]:
        """All models that may be asked, each once."""
        rows = [row for row in (self.default, self.deep) if row.max_calls]
        named = [*(row.model for row in rows), *(row.fallback_model for row in rows)]
        return tuple(dict.fromkeys(model for model in named if model))

    @model_validator(mode="before")
    @classmethod
    def _over_defaults(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        rows = {name: _merged(_DEFAULTS.get(name, {}), row) for name, row in given.items()}
        return {**_DEFAULTS, **rows}

    @model_validator(mode="after")
    def _calls_fit(self) -> Self:
        for name, most in MAX_CALLS.items():
            if self[name].max_calls > most:
                raise ValueError(f"{name}.max_calls: must be {most} at the most")
        return self


def _merged(defaults: Mapping[str, object], row: object) -> object:
    return {**defaults, **row} if isinstance(row, dict) else row


DEFAULT_STRATEGIES = StrategyTable.model_validate({})
