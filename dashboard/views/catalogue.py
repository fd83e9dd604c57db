"""The catalogue: what there is, where it lies, and what is like what."""

import streamlit as st

from dashboard.api_client import Api
from dashboard.charts import Row, bars, columns, draw, embedding_map
from dashboard.shapes import Catalogue, Point
from dashboard.songs import creator_of, headline, named, plain, title_of
from dashboard.texts import Texts
from dashboard.views.asking import asked_for

N_COLOURED, N_BARS = 14, 12
N_SIMILAR = 10


def show(api: Api, texts: Texts) -> None:
    """Draw the page."""
    st.title(texts("catalogue.title"))
    found = api.catalogue()
    if not found["nItems"]:
        st.info(texts("catalogue.empty"))
        return
    with st.container(horizontal=True):
        st.metric(texts("catalogue.songs"), f"{found['nItems']:,}")
        st.metric(texts("catalogue.genres"), f"{len(found['genres']):,}")
    _show_map(api, found, texts)
    _show_similar(api, texts)
    _show_counts(found, texts)


def _show_map(api: Api, found: Catalogue, texts: Texts) -> None:
    st.subheader(texts("catalogue.map"))
    n = st.select_slider(texts("catalogue.dots"), options=[250, 500, 1000, 2000, 3000], value=1000)
    drawn = api.catalogue_map(int(n))
    if len(drawn["points"]) < 2:  # noqa: PLR2004 - one dot is no map
        st.info(texts("catalogue.no_map"))
        return
    genres = [each["name"] for each in found["genres"][:N_COLOURED]]
    titles = {
        "song": texts("song.song"), "artist": texts("catalogue.artist"), "genre": texts("catalogue.genre")
    }  # fmt: skip
    dots = [_dot(point, texts.language) for point in drawn["points"]]
    draw(embedding_map(dots, genres, other=texts("catalogue.other"), titles=titles))
    st.write(texts("catalogue.map_lead", n=len(drawn["points"]), share=round(100 * sum(drawn["explained"]))))


def _dot(point: Point, language: str) -> Row:
    """What the map shows of a song, in the page's language."""
    names = {"song": title_of(point, language), "artist": creator_of(point, language)}
    return {**names, "genre": point["genre"], "x": point["x"], "y": point["y"]}


def _show_similar(api: Api, texts: Texts) -> None:
    st.subheader(texts("catalogue.similar"))
    asked = asked_for(texts, key="similar-to")
    if not asked:
        return
    found = {each["item"]["itemId"]: each["item"] for each in api.search(asked, 8)}
    if not found:
        st.info(texts("try.nothing_found", text=plain(asked)))
        return
    picked = st.selectbox(
        texts("catalogue.pick"), list(found), format_func=lambda item_id: named(found[item_id], texts.language)
    )
    for place, near in enumerate(api.similar(picked, N_SIMILAR), start=1):
        genres = plain(", ".join(near["item"]["genres"]))
        st.markdown(f"{place}. {headline(near['item'], texts.language)} · {genres} · {round(100 * near['score'])} %")


def _show_counts(found: Catalogue, texts: Texts) -> None:
    genre, artist, songs = texts("catalogue.genre"), texts("catalogue.artist"), texts("catalogue.songs")
    st.subheader(texts("catalogue.genres"))
    genres = [(each["name"], each["items"]) for each in found["genres"][:N_BARS]]
    draw(bars(genres, name=genre, value=songs))
    st.subheader(texts("catalogue.artists"))
    artists = [(each["name"], each["items"]) for each in found["creators"][:N_BARS]]
    draw(bars(artists, name=artist, value=songs))
    st.subheader(texts("catalogue.popularity"))
    popularity = texts("catalogue.popularity")
    tenths = [(f"{10 * place}", n) for place, n in enumerate(found["popularity"])]
    draw(columns(tenths, name=popularity, value=songs))
