"""Items taken out of documents that are cached already."""

import orjson

from config.catalogue_profile import CatalogueProfile

Json = dict[str, object]


def without_items(document: bytes, item_ids: frozenset[int], profile: CatalogueProfile) -> bytes | None:
    """A result or cached view (JSON) without these items; None where it holds none of them, or is none of ours.

    What stays keeps its order; ranks are counted anew, and a group that is left empty goes.
    """
    try:
        found = orjson.loads(document)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(found, dict):
        return None
    id_field, items_field = profile.id_field, profile.result.items
    groups = [_without(group, items_field, id_field, item_ids) for group in _rows(found, "groups")]
    candidates = [row for row in _rows(found, "candidates") if row.get(id_field) not in item_ids]
    kept = [group for group in groups if group.get(items_field)]
    is_same = candidates == _rows(found, "candidates") and groups == _rows(found, "groups")
    if is_same:
        return None
    _rank(kept, items_field)
    return orjson.dumps({**found, "groups": kept, "candidates": candidates})


def _rows(holder: Json, name: str) -> list[Json]:
    rows = holder.get(name)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _without(group: Json, items_field: str, id_field: str, item_ids: frozenset[int]) -> Json:
    return {**group, items_field: [row for row in _rows(group, items_field) if row.get(id_field) not in item_ids]}


def _rank(groups: list[Json], items_field: str) -> None:
    place = 0
    for group in groups:
        for row in _rows(group, items_field):
            place += 1
            row["rank"] = place
