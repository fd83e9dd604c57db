"""What an address holds beside its page: the language, the chosen songs and a short wish.

So a reload keeps them, and a list can be shared. The address is read when a session begins; from then on the session
holds what is so, and the address follows.
"""

from collections.abc import Mapping

import streamlit as st

from dashboard.api_client import Api, ApiProblem, Trouble
from dashboard.shapes import Item
from dashboard.songs import plain
from dashboard.texts import Texts
from dashboard.visitor import N_SEEDS, VISITOR, Visitor

LANGUAGE, SONGS, WISH = "lang", "songs", "wish"
KEPT_WISH = "kept-wish"
N_WISH = 80
"""Characters of a wish that an address holds: written in one, a Korean or Japanese one is nine times as long."""
_IS_READ, _LEFT_OUT, _WERE_TOO_MANY = "address-is-read", "left-out-of-address", "too-many-in-address"
_GREATEST_ID = 2**63 - 1
_N_QUOTED = 20


def kept_in_address(language: str) -> dict[str, str]:
    """What the addresses of all pages are to hold now."""
    held = {LANGUAGE: language, SONGS: _songs(), WISH: _wish()}
    return {name: value for name, value in held.items() if value}


def write_address(kept: Mapping[str, str]) -> None:
    """Have the browser show it; each change is a step that Back takes back."""
    if st.query_params.to_dict() != kept:
        st.query_params.from_dict(kept)


def _songs() -> str:
    if not st.session_state.get(_IS_READ):
        return str(st.query_params.get(SONGS, ""))
    visitor: Visitor = st.session_state[VISITOR]
    return ",".join(str(item["itemId"]) for item in visitor.chosen)


def _wish() -> str:
    if not st.session_state.get(_IS_READ):
        return str(st.query_params.get(WISH, ""))
    wish = str(st.session_state.get(WISH, st.session_state.get(KEPT_WISH, "")))
    return wish if len(wish) <= N_WISH else ""


def take_up_address(api: Api, visitor: Visitor, texts: Texts) -> None:
    """Choose the songs that the address named when the session began; of what is none of the catalogue's it tells.

    Raises ``ApiProblem`` where they cannot be asked for: the next run tries again.
    """
    if not st.session_state.get(_IS_READ):
        st.session_state.setdefault(KEPT_WISH, str(st.query_params.get(WISH, ""))[:N_WISH])
        _choose(api, visitor, list(filter(None, st.query_params.get(SONGS, "").split(","))))
        st.session_state[_IS_READ] = True
    if left_out := st.session_state.pop(_LEFT_OUT, ""):
        st.warning(texts("try.bad_address", text=plain(left_out)))
    if st.session_state.pop(_WERE_TOO_MANY, False):
        st.warning(texts("try.too_many_in_address", n=N_SEEDS))


def _choose(api: Api, visitor: Visitor, named: list[str]) -> None:
    found = {text: _item(api, text) for text in dict.fromkeys(named[:N_SEEDS])}
    visitor.choose([item for item in found.values() if item])
    st.session_state[_LEFT_OUT] = ", ".join(text[:_N_QUOTED] for text, item in found.items() if item is None)
    st.session_state[_WERE_TOO_MANY] = len(named) > N_SEEDS


def _item(api: Api, text: str) -> Item | None:
    """The song of that id; None where there is none, or it is no id."""
    if not (text.isascii() and text.isdigit() and len(text) < _N_QUOTED and int(text) <= _GREATEST_ID):
        return None
    try:
        return api.item(int(text))
    except ApiProblem as problem:
        if problem.trouble is not Trouble.NOT_FOUND:
            raise
        return None
