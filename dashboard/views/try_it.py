"""Try it: choose songs, see what is recommended and why, react, and see the next list."""

import random
from collections.abc import Sequence

import streamlit as st

from dashboard.api_client import Api, ApiProblem
from dashboard.charts import draw, mean_features, radar, shown_features
from dashboard.problems import tell, told_problems
from dashboard.shapes import Item, Recommended
from dashboard.songs import evidence_line, headline, moved, named, plain
from dashboard.texts import Texts

N_ENOUGH, N_ADVISED, N_MOST = 3, 5, 10
N_FOUND, N_SHOWN = 8, 10
LOOK_EVERY_S = 2.0


def show(api: Api, texts: Texts) -> None:
    """Draw the page."""
    st.title(texts("try.title"))
    st.write(texts("try.lead"))
    _search(api, texts)
    _show_chosen(texts)
    if len(_chosen()) < N_ENOUGH:
        st.info(texts("try.choose_more", n=N_ENOUGH - len(_chosen())))
        return
    st.text_input(texts("try.wish"), placeholder=texts("try.wish_example"), max_chars=200, key="wish")
    _show_list(api, texts)
    _show_workers_list(api, texts)


# --- choosing ---


def _chosen() -> dict[int, Item]:
    """The chosen songs by id, in the order of choosing; kept for as long as the page is open."""
    found: dict[int, Item] = st.session_state.setdefault("chosen", {})
    return found


def _search(api: Api, texts: Texts) -> None:
    asked = st.text_input(texts("try.search"), placeholder=texts("try.search_example"), key="asked").strip()
    if asked:
        found = [each["item"] for each in api.search(asked, N_FOUND)]
        if not found:
            st.info(texts("try.nothing_found", text=plain(asked)))
    else:
        st.markdown(texts("try.popular"))
        found = api.catalogue()["popular"]
        st.button(texts("try.five_for_me"), on_click=_choose_all, args=(found[:N_ADVISED],), icon=":material/casino:")
    for item in found[:N_FOUND]:
        if item["itemId"] not in _chosen():
            _offer(item, texts)


def _offer(item: Item, texts: Texts) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(headline(item, texts.language), width="stretch")
        st.button(
            texts("try.add"),
            key=f"add-{item['itemId']}",
            on_click=_choose_all,
            args=([item],),
            disabled=len(_chosen()) >= N_MOST,
        )


def _choose_all(items: Sequence[Item]) -> None:
    _chosen().update({item["itemId"]: item for item in items[: N_MOST - len(_chosen())]})


def _drop(item_id: int) -> None:
    _chosen().pop(item_id, None)


def _show_chosen(texts: Texts) -> None:
    if not _chosen():
        return
    st.subheader(texts("try.yours", n=len(_chosen())))
    for item in list(_chosen().values()):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.markdown(headline(item, texts.language), width="stretch")
            st.button(texts("try.remove"), key=f"drop-{item['itemId']}", on_click=_drop, args=(item["itemId"],))


# --- the list at once ---


def _show_list(api: Api, texts: Texts) -> None:
    liked, disliked = _reactions("like"), _reactions("dislike")
    answer = api.from_seeds(
        # The newest likes first: more than ten the API does not take.
        [*_chosen(), *(item_id for item_id in reversed(liked) if item_id not in _chosen())][:N_MOST],
        disliked_ids=[item_id for item_id in disliked if item_id not in _chosen()],
        limit=N_SHOWN,
        locale=texts.language,
        wish=str(st.session_state.get("wish") or ""),
    )
    st.subheader(texts("try.list"))
    if answer["taste"]["summary"]:
        st.write(plain(answer["taste"]["summary"]))
    if problem := st.session_state.pop("untold", None):
        tell(problem, texts)
    before = _list_before([each["item"]["itemId"] for each in answer["items"]])
    for place, recommended in enumerate(answer["items"]):
        _show_recommended(api, recommended, moved(recommended["item"]["itemId"], place, before, texts), texts)
    _compare(answer["items"], texts)


def _reactions(kind: str) -> dict[int, Item]:
    found: dict[int, Item] = st.session_state.setdefault(f"reactions-{kind}", {})
    return found


def _list_before(ids: Sequence[int]) -> Sequence[int]:
    """The list that was shown before the present one; empty where there was none."""
    shown: list[Sequence[int]] = st.session_state.setdefault("lists", [])
    if not shown or shown[-1] != ids:
        shown.append(ids)
        del shown[:-2]
    return shown[0] if len(shown) > 1 else ()


def _show_recommended(api: Api, recommended: Recommended, change: str, texts: Texts) -> None:
    item = recommended["item"]
    with st.container(border=True):
        st.markdown(f"{headline(item, texts.language)}{f'  **{change}**' if change else ''}")
        st.markdown(plain(recommended["reason"]))
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.markdown(f"<small>{evidence_line(recommended, texts)}</small>", unsafe_allow_html=True, width="stretch")
            for kind, icon in (("like", ":material/thumb_up:"), ("dislike", ":material/thumb_down:")):
                st.button(
                    texts(f"try.{kind}"),
                    key=f"{kind}-{item['itemId']}",
                    icon=icon,
                    on_click=_react,
                    args=(api, kind, item),
                )


def _react(api: Api, kind: str, item: Item) -> None:
    """Change the next list, and tell the worker, with what it takes to make a list of its own."""
    _reactions("like").pop(item["itemId"], None)
    _reactions("dislike").pop(item["itemId"], None)
    _reactions(kind)[item["itemId"]] = item
    try:
        untold = [item_id for item_id in _chosen() if item_id not in _told()]
        if untold:
            api.tell(_visitor(), "like", untold)
            _told().update(untold)
        api.tell(_visitor(), kind, [item["itemId"]])
    except ApiProblem as problem:
        st.session_state["untold"] = problem


def _told() -> set[int]:
    found: set[int] = st.session_state.setdefault("told", set())
    return found


def _visitor() -> int:
    """Whom the reactions are of: a number below all that the API makes itself, which no member of a backend has."""
    number: int = st.session_state.setdefault("visitor", -random.randint(10**6, 10**12))
    return number


def _compare(recommended: Sequence[Recommended], texts: Texts) -> None:
    yours = list(_chosen().values())
    items = {each["item"]["itemId"]: each["item"] for each in recommended}
    names = shown_features([*yours, *items.values()])
    if len(names) < N_ENOUGH:
        return  # fewer axes make no shape
    st.subheader(texts("try.compare"))
    picked = st.selectbox(
        texts("try.compare_with"), list(items), format_func=lambda item_id: named(items[item_id], texts.language)
    )
    shapes = {
        texts("try.your_songs"): mean_features(yours, names),
        named(items[picked], texts.language): mean_features([items[picked]], names),
    }
    labels = {name: texts.named("feature", name) for name in names}
    draw(radar(shapes, labels))


# --- the worker's list ---


def _show_workers_list(api: Api, texts: Texts) -> None:
    st.subheader(texts("try.worker"))
    st.write(texts("try.worker_lead"))
    if st.button(texts("try.ask_worker"), type="primary", icon=":material/send:"):
        wish = str(st.session_state.get("wish") or "")
        st.session_state["job"] = api.explain(
            list(_chosen()), member_id=_visitor(), limit=N_SHOWN, locale=texts.language, wish=wish
        )
    if st.session_state.get("job") or _told():
        _watch(api, texts)


@st.fragment(run_every=LOOK_EVERY_S)
def _watch(api: Api, texts: Texts) -> None:
    """Looks again and again: for the job that was asked for, and for those that reactions bring about."""
    with told_problems(texts, "worker"):
        if job_id := st.session_state.get("job"):
            job = api.job(job_id)
            if job["status"] == "failed":
                st.warning(texts("try.job_failed", reason=(job["error"] or {}).get("message", "")))
            elif job["status"] != "succeeded":
                st.progress(job["progress"], texts(f"status.{job['status']}"))
        newest = api.member(_visitor())["newest"]
        if newest is None:
            st.info(texts("try.waiting"))
            return
        before = st.session_state.setdefault("workers-lists", [])
        ids = [each["item"]["itemId"] for each in newest["items"]][:N_SHOWN]
        if not before or before[-1] != ids:
            before.append(ids)
            del before[:-2]
        for place, recommended in enumerate(newest["items"][:N_SHOWN]):
            change = moved(recommended["item"]["itemId"], place, before[0] if len(before) > 1 else (), texts)
            st.markdown(
                f"{place + 1}. {headline(recommended['item'], texts.language)} {f'**{change}**' if change else ''}  \n"
                f"{plain(recommended['reason'])}"
            )
