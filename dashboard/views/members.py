"""Members: what one likes, how that changed, and what was recommended last and why."""

import streamlit as st

from dashboard.api_client import Api
from dashboard.charts import bars, draw, mean_features, radar, shares_over_time, shown_features
from dashboard.problems import told_problems
from dashboard.shapes import Item, KeptList, Liked, Member
from dashboard.songs import evidence_line, headline, named, plain, sources_of
from dashboard.taste import genre_counts, taste_over_time
from dashboard.texts import LANGUAGES, Texts

N_LISTED = 50
N_AXES = 3
LOOK_EVERY_S = 3.0


def show(api: Api, texts: Texts) -> None:
    """Draw the page."""
    st.title(texts("members.title"))
    member_id = _pick(api.active_members(N_LISTED), texts)
    if member_id is None:
        return
    member = api.member(member_id)
    if not (member["likes"] or member["disliked"] or member["newest"]):
        st.info(texts("members.unknown", member=member_id))
    _show_taste(member["likes"], texts)
    _watch(api, member_id, texts)
    _show_likes(member, texts)


def _pick(active: list[int], texts: Texts) -> int | None:
    """The member whose number was chosen or typed."""
    if not active:
        st.info(texts("members.nobody"))
    picked = st.selectbox(
        texts("members.pick"), [str(each) for each in active], accept_new_options=True, key="member", index=0
    )
    typed = str(picked or "").strip()
    try:
        return int(typed)
    except ValueError:
        if typed:
            st.warning(texts("members.no_number", text=plain(typed)))
        return None


def _show_taste(likes: list[Liked], texts: Texts) -> None:
    if not likes:
        return
    genre, songs = texts("catalogue.genre"), texts("catalogue.songs")
    st.subheader(texts("members.genres"))
    draw(bars(genre_counts(likes), name=genre, value=songs))
    st.subheader(texts("members.over_time"))
    shares = taste_over_time(likes, texts("catalogue.other"))
    if len({row["when"] for row in shares}) > 1:
        draw(shares_over_time(shares, share=texts("members.share")))
    else:
        st.info(texts("members.no_dates"))
    _show_sound([each["item"] for each in likes], texts)


def _show_sound(liked: list[Item], texts: Texts) -> None:
    st.subheader(texts("members.sound"))
    names = shown_features(liked)
    if len(names) < N_AXES:
        st.info(texts("song.no_shape"))
        return
    shape = {texts("members.their_likes"): mean_features(liked, names)}
    labels = {name: texts.named("feature", name) for name in names}
    draw(radar(shape, labels))


@st.fragment(run_every=LOOK_EVERY_S)
def _watch(api: Api, member_id: int, texts: Texts) -> None:
    """The newest recommendation, and the way to a new one."""
    st.subheader(texts("members.newest"))
    with told_problems(texts, "newest"):
        if st.button(texts("members.ask"), icon=":material/refresh:"):
            api.recommend(member_id, locale=texts.language)
            st.toast(texts("members.asked"))
        newest = api.member(member_id)["newest"]
        if newest is None:
            st.info(texts("members.no_newest"))
        else:
            _show_newest(newest, texts)


def _show_newest(newest: KeptList, texts: Texts) -> None:
    st.write(texts("members.made_on", date=plain(newest["generatedDate"]), n=len(newest["items"])))
    if newest["provisional"]:
        st.info(texts("members.provisional"))
    _tell_language(newest, texts)
    found_by = sorted({source for each in newest["items"] for source in sources_of(each)})
    if found_by:
        sources = ", ".join(texts.named("source", name) for name in found_by)
        st.write(texts("members.sources", sources=plain(sources)))
    for place, recommended in enumerate(newest["items"][:20], start=1):
        st.markdown(
            f"{place}. {headline(recommended['item'], texts.language)}  \n{plain(recommended['reason'])}  \n"
            f"<small>{evidence_line(recommended, texts)}</small>",
            unsafe_allow_html=True,
        )
    st.write(texts("song.order"))


def _tell_language(newest: KeptList, texts: Texts) -> None:
    """Of sentences that were written for readers of another language than the page's."""
    language = newest["locale"]
    if language not in ("", texts.language):
        st.info(texts("members.other_language", language=plain(LANGUAGES.get(language, language))))


def _show_likes(member: Member, texts: Texts) -> None:
    if member["likes"]:
        st.subheader(texts("members.likes", n=len(member["likes"])))
        rows = [
            {
                texts("song.song"): named(liked["item"], texts.language),
                texts("catalogue.genre"): ", ".join(liked["item"]["genres"]),
                texts("members.since"): (liked["since"] or "")[:10],
            }
            for liked in member["likes"]
        ]
        st.dataframe(rows, hide_index=True, width="stretch")
    if member["disliked"]:
        refused = "; ".join(named(item, texts.language) for item in member["disliked"])
        st.write(texts("members.disliked", songs=plain(refused)))
