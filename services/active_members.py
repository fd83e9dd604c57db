"""Who is worth a refresh before they ask."""

from collections.abc import Sequence

import sqlalchemy as sa

from config.catalogue_profile import CatalogueProfile
from services.database import Database
from services.schema import LazyTables, ProfileTables


class SqlActiveMembers:
    """``ActiveMembers`` by the backend's likes, in MySQL, MariaDB or SQLite.

    Also raises ``ConfigurationError``: the profile names what the database lacks.
    """

    def __init__(self, database: Database, profile: CatalogueProfile) -> None:
        self._database = database
        self._profile = profile
        self._tables = LazyTables(database, profile)

    async def active_member_ids(self, limit: int, offset: int = 0) -> Sequence[int]:
        """At most ``limit`` members from ``offset`` on, those with the newest likes first, in one round trip.

        Where likes have no date, those with the most likes come first.
        """
        query = _query(await self._tables.get(), self._profile).limit(limit).offset(offset)
        async with self._database.connect() as connection:
            return (await connection.scalars(query)).all()


def _query(tables: ProfileTables, profile: CatalogueProfile) -> sa.Select[int]:
    columns = tables.likes.columns
    member, liked_at = columns[profile.likes.member], profile.likes.created_at
    activity = sa.func.max(columns[liked_at]) if liked_at else sa.func.count()
    return sa.select(member).where(member.is_not(None)).group_by(member).order_by(activity.desc(), member)
