"""A wish in the question to the language model: fenced as data, last of all, and never longer than a few lines."""

from collections.abc import Sequence
from dataclasses import replace

from config.llm_strategies import StrategyLimits
from config.wish_texts import WishTexts
from core.handles import Handles
from core.plain_text import plain_line
from core.ports.language_model import Prompt
from core.token_estimate import rough_tokens
from core.wish import TIME, Wish

MAX_WORDS_CHARS = 200
MAX_FITTING = 60

# Those of full width read like the fence, too.
_ANGLES = str.maketrans("<>＜＞﹤﹥", "()()()")


def with_wish(prompt: Prompt, handles: Handles, wish: Wish | None, texts: WishTexts) -> Prompt:
    """``prompt`` with ``wish`` and the handles of what was measured to fulfil it; as it is where there is none.

    What all listeners share comes first, so that providers' caches of prompts serve both.
    """
    if wish is None:
        return prompt
    fitting = [
        handle for handle, shown in handles.items() if _fulfils(wish, {each.key for each in shown.evidence.wish})
    ]
    return replace(
        prompt,
        system=f"{prompt.system.rstrip()}\n{texts.instructions}\n",
        user="\n".join([prompt.user, *_block(wish, fitting[:MAX_FITTING])]),
    )


def leaving_room(limits: StrategyLimits, wish: Wish | None, texts: WishTexts) -> StrategyLimits:
    """``limits`` without the tokens that ``with_wish`` may add."""
    if wish is None or not limits.max_calls:
        return limits
    longest = [*texts.instructions.splitlines(), *_block(wish, [200 + place for place in range(MAX_FITTING)])]
    left = max(0, limits.max_prompt_tokens - round(rough_tokens(longest)))
    return limits.model_copy(update={"max_prompt_tokens": left})


def _fulfils(wish: Wish, has: set[str]) -> bool:
    return wish.is_required and wish.required_keys <= has


def _block(wish: Wish, fitting: Sequence[int]) -> list[str]:
    context = wish.context
    part_of_day = next((part.wished_for.label("en") for part in wish.parts if part.kind == TIME), None)
    told = {"words": context.query, "mood": context.mood, "activity": context.activity, "hour": part_of_day}
    lines = [f"{name}: {shown}" for name, text in told.items() if text and (shown := _shown(text))]
    fits = [f"fits: {' '.join(map(str, fitting))}"] if fitting else []
    return ["<wish>", *lines, *fits, "</wish>"]


def _shown(text: str) -> str:
    return plain_line(text.translate(_ANGLES), MAX_WORDS_CHARS)
