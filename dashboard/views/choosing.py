"""Choosing songs: what there is to choose from, and what was chosen."""

from collections.abc import Sequence

import streamlit as st

from dashboard.api_client import Api
from dashboard.shapes import Item
from dashboard.songs import headline, plain
from dashboard.texts import Texts
from dashboard.views.asking import asked_for
from dashboard.views.reactions import tell_worker
from dashboard.visitor import N_SEEDS, Visitor

N_ADVISED = 5
N_FOUND = 8


def search(api: Api, visitor: Visitor, texts: Texts) -> None:
    """Songs by name, and the popular ones before anybody has typed."""
    asked = asked_for(texts, key="asked")
    if asked:
        found = [each["item"] for each in api.search(asked, N_FOUND)]
        if not found:
            st.info(texts("try.nothing_found", text=plain(asked)))
    else:
        st.markdown(texts("try.popular"))
        found = api.catalogue()["popular"]
        st.button(
            texts("try.five_for_me"),
            on_click=_choose,
            args=(api, visitor, found[:N_ADVISED]),
            icon=":material/casino:",
            disabled=not visitor.has_room,
        )
    for item in found[:N_FOUND]:
        if not visitor.has_chosen(item["itemId"]):
            _offer(api, visitor, item, texts)


def _offer(api: Api, visitor: Visitor, item: Item, texts: Texts) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(headline(item, texts.language), width="stretch")
        st.button(
            texts("try.add"),
            key=f"add-{item['itemId']}",
            on_click=_choose,
            args=(api, visitor, [item]),
            disabled=not visitor.has_room,
        )


def show_chosen(api: Api, visitor: Visitor, texts: Texts) -> None:
    """What was chosen, each with a way to take it off."""
    if not visitor.chosen:
        return
    st.subheader(texts("try.yours", n=len(visitor.chosen)))
    for item in visitor.chosen:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.markdown(headline(item, texts.language), width="stretch")
            st.button(
                texts("try.remove"), key=f"drop-{item['itemId']}", on_click=_drop, args=(api, visitor, item["itemId"])
            )
    if not visitor.has_room:
        st.info(texts("try.full", n=N_SEEDS))


def _choose(api: Api, visitor: Visitor, items: Sequence[Item]) -> None:
    visitor.choose(items)
    tell_worker(api, visitor)


def _drop(api: Api, visitor: Visitor, item_id: int) -> None:
    visitor.drop(item_id)
    tell_worker(api, visitor)
