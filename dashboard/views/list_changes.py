"""What a list was before it changed, for as long as the page is open."""

from collections.abc import Sequence

import streamlit as st


def list_before(name: str, ids: Sequence[int]) -> Sequence[int]:
    """What was listed under ``name`` before ``ids``, which are listed now; empty where nothing was."""
    seen: list[Sequence[int]] = st.session_state.setdefault(f"lists-{name}", [])
    if not seen or seen[-1] != ids:
        seen.append(ids)
        del seen[:-2]
    return seen[0] if len(seen) > 1 else ()
