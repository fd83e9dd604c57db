"""Reactions: the buttons, the list of what was said with a way to take it back, and telling the worker."""

import random

import streamlit as st

from dashboard.api_client import Api, ApiProblem
from dashboard.shapes import Item
from dashboard.songs import headline
from dashboard.texts import Texts
from dashboard.visitor import VISITOR, Verdict, Visitor

N_WITHOUT_SCROLLING = 6
SCROLLED_HEIGHT = 420
_ICONS = {Verdict.LIKE: ":material/thumb_up:", Verdict.DISLIKE: ":material/thumb_down:"}


def the_visitor() -> Visitor:
    """Whoever looks at the page, for as long as it is open.

    Their number is below all that the API makes itself, which no member of a backend has.
    """
    if VISITOR not in st.session_state:
        st.session_state[VISITOR] = Visitor(-random.randint(10**6, 10**12))
    visitor: Visitor = st.session_state[VISITOR]
    return visitor


def offer_reactions(api: Api, visitor: Visitor, item: Item, texts: Texts, *, said: Verdict | None = None) -> None:
    """A button for each verdict; the one of what was ``said`` is shown pressed, and takes it back."""
    with st.container(horizontal=True, gap="small", width="content"):  # so that a narrow page never parts them
        for verdict, icon in _ICONS.items():
            is_pressed = verdict is said
            st.button(
                texts(f"try.{verdict}d") if is_pressed else texts(f"try.{verdict}"),
                key=f"{'said-' if said else ''}{verdict}-{item['itemId']}",
                icon=icon,
                type="primary" if is_pressed else "secondary",
                on_click=_react,
                args=(api, visitor, verdict, item),
            )


def show_reactions(api: Api, visitor: Visitor, texts: Texts) -> None:
    """All that was said, newest first: what was refused is in no list any more, so here it is taken back."""
    reactions = visitor.reactions
    if not reactions:
        return
    st.subheader(texts("try.reactions", n=len(reactions)))
    st.write(texts("try.reactions_lead"))
    is_long = len(reactions) > N_WITHOUT_SCROLLING
    with st.container(height=SCROLLED_HEIGHT if is_long else "content", border=is_long):
        for reaction in reactions:
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                st.markdown(headline(reaction.item, texts.language), width="stretch")
                offer_reactions(api, visitor, reaction.item, texts, said=reaction.verdict)


def _react(api: Api, visitor: Visitor, verdict: Verdict, item: Item) -> None:
    visitor.react(verdict, item)
    tell_worker(api, visitor)


def tell_worker(api: Api, visitor: Visitor) -> None:
    """What it does not know yet; what it could not be told is told the next time, and the page says so."""
    events = visitor.untold()
    if not events:
        return
    try:
        api.tell(visitor.member_id, events)
        visitor.was_told()
    except ApiProblem as problem:
        st.session_state["untold"] = problem
