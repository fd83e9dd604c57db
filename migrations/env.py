"""Alembic's entry: runs the migrations on the connection that ``services/migrations.py`` hands over."""

from typing import TYPE_CHECKING

from alembic import context

from services.schema import OWN_PREFIX, VERSION_TABLE, own_metadata

if TYPE_CHECKING:
    from alembic.runtime.environment import NameFilterParentNames, NameFilterType


def _is_ours(name: str | None, kind: "NameFilterType", _parents: "NameFilterParentNames") -> bool:
    # The backend's tables stand in the same database, and are never ours to change.
    return kind != "table" or (name or "").startswith(OWN_PREFIX)


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=own_metadata,
    version_table=VERSION_TABLE,
    include_name=_is_ours,
    on_version_apply=context.config.attributes.get("on_step", ()),
)
context.run_migrations()
