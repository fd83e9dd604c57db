"""Try it: choose songs, see what is recommended and why, react, and see the next list."""

from collections.abc import Sequence

import streamlit as st

from dashboard.address import KEPT_WISH, WISH, take_up_address
from dashboard.api_client import Api
from dashboard.charts import draw, mean_features, radar, shown_features
from dashboard.problems import tell, told_problems
from dashboard.shapes import Recommended
from dashboard.songs import evidence_line, headline, moved, named, plain
from dashboard.texts import Texts
from dashboard.views import workers_list
from dashboard.views.asking import typed
from dashboard.views.choosing import search, show_chosen
from dashboard.views.list_changes import list_before
from dashboard.views.reactions import offer_reactions, show_reactions, the_visitor
from dashboard.visitor import N_NEWEST_LIKES, N_SEEDS, Visitor

N_ENOUGH, N_AXES = 3, 3
N_SHOWN, N_MOST_ASKED = 10, 100


def show(api: Api, texts: Texts) -> None:
    """Draw the page."""
    st.title(texts("try.title"))
    st.write(texts("try.lead"))
    visitor = the_visitor()
    take_up_address(api, visitor, texts)
    search(api, visitor, texts)
    show_chosen(api, visitor, texts)
    n_missing = N_ENOUGH - len(visitor.seed_ids())
    if n_missing > 0:
        st.info(texts("try.choose_more", n=n_missing))
        _tell_problem(texts)
        show_reactions(api, visitor, texts)
        return
    wish = _wish(texts)
    listed: Sequence[Recommended] = ()
    with told_problems(texts, "list"):  # what follows stands without it, and may be how to mend it
        listed = _find(api, visitor, wish, texts)
        _show_list(api, visitor, listed, texts)
    show_reactions(api, visitor, texts)
    _compare(visitor, listed, texts)
    workers_list.show(api, visitor, wish, texts, n=N_SHOWN)


def _tell_problem(texts: Texts) -> None:
    """Of what the last click was to tell the worker."""
    if problem := st.session_state.pop("untold", None):
        tell(problem, texts)


def _wish(texts: Texts) -> str:
    """What the visitor typed; kept beside the input, of which Streamlit forgets what it held where it is not drawn."""
    st.session_state.setdefault(WISH, st.session_state.get(KEPT_WISH, ""))
    kept = typed(texts("try.wish"), texts("try.wish_example"), texts("try.send_wish"), key=WISH)
    st.session_state[KEPT_WISH] = kept
    return kept


def _find(api: Api, visitor: Visitor, wish: str, texts: Texts) -> Sequence[Recommended]:
    """The list; what its songs have in common is told at once."""
    silent = visitor.silent_ids()
    st.subheader(texts("try.list"))
    answer = api.from_seeds(
        visitor.seed_ids(),
        disliked_ids=visitor.refused_ids(),
        limit=min(N_MOST_ASKED, N_SHOWN + len(silent)),
        locale=texts.language,
        wish=wish,
    )
    if answer["taste"]["summary"]:
        st.write(plain(answer["taste"]["summary"]))
    return [each for each in answer["items"] if each["item"]["itemId"] not in silent][:N_SHOWN]


def _show_list(api: Api, visitor: Visitor, listed: Sequence[Recommended], texts: Texts) -> None:
    if n_more := visitor.n_without_a_say():
        st.info(texts("try.counted", n=n_more, seeds=N_SEEDS, likes=N_NEWEST_LIKES))
    _tell_problem(texts)
    before = list_before("at-once", [each["item"]["itemId"] for each in listed])
    for place, recommended in enumerate(listed):
        change = moved(recommended["item"]["itemId"], place, before, texts)
        _show_recommended(api, visitor, recommended, change, texts)
    if listed:
        st.write(texts("song.order"))


def _show_recommended(api: Api, visitor: Visitor, recommended: Recommended, change: str, texts: Texts) -> None:
    item = recommended["item"]
    with st.container(border=True):
        st.markdown(f"{headline(item, texts.language)}{f'  **{change}**' if change else ''}")
        st.markdown(plain(recommended["reason"]))
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.markdown(f"<small>{evidence_line(recommended, texts)}</small>", unsafe_allow_html=True, width="stretch")
            offer_reactions(api, visitor, item, texts)


def _compare(visitor: Visitor, listed: Sequence[Recommended], texts: Texts) -> None:
    yours = [*visitor.chosen, *visitor.liked]
    items = {each["item"]["itemId"]: each["item"] for each in listed}
    if not items:
        return
    st.subheader(texts("try.compare"))
    names = shown_features([*yours, *items.values()])
    if len(names) < N_AXES:
        st.info(texts("song.no_shape"))
        return
    picked = st.selectbox(
        texts("try.compare_with"), list(items), format_func=lambda item_id: named(items[item_id], texts.language)
    )
    shapes = {
        texts("try.your_songs"): mean_features(yours, names),
        named(items[picked], texts.language): mean_features([items[picked]], names),
    }
    labels = {name: texts.named("feature", name) for name in names}
    draw(radar(shapes, labels))
