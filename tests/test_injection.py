"""What is written into SQL and into names of Redis keys: nothing that came from outside."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidMessage
from core.job_codec import MAX_JOB_ID_CHARS, decode_job, encode_job
from models.job import Job
from services.redis_client import open_redis
from services.result_cache import IDEMPOTENCY_PREFIX, INDEX_PREFIX, LEASE_PREFIX, STATUS_PREFIX, RedisResultCache
from tests.support.hand_clock import HandClock

ROOT = Path(__file__).parents[1]
PROGRAM = ("main.py", "api", "commands", "core", "services", "training", "workers")

# --- SQL ---

TAKES_SQL = frozenset({
    "text", "exec_driver_sql", "literal_column", "DDL", "prefix_with", "suffix_with", "with_hint", "bool_op", "op",
    "with_statement_hint", "from_statement", "executescript",
})  # fmt: skip
VERBS = (
    "SELECT ",
    "INSERT ",
    "UPDATE ",
    "DELETE ",
    "REPLACE ",
    "CREATE ",
    "DROP ",
    "ALTER ",
    "SET ",
    "TRUNCATE ",
    "GRANT ",
)

BUILT_OF_OUR_OWN = {
    ("services/item_codes.py", "item_code.name"),
    ("services/item_codes.py", "', '.join(_COLUMNS)"),
    ("services/item_codes.py", "', '.join((f':{name}' for name in _COLUMNS))"),
    ("services/item_codes.py", "table.name"),  # one of ours, told apart by a number
    ("services/item_codes.py", "vector_table(number).name"),
    ("services/item_codes.py", "dim"),  # an integer among the settings
    ("services/item_codes.py", "_N_EDGES"),
    ("services/database.py", "whole_s"),  # seconds, of the settings
}
"""Names and numbers of ours that SQL is built of, since no parameter can stand for them: by file, each as written."""


def program() -> Iterator[tuple[str, ast.Module]]:
    for part in PROGRAM:
        path = ROOT / part
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            yield file.relative_to(ROOT).as_posix(), ast.parse(file.read_text(encoding="utf-8"))


def name_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def is_sql(text: ast.expr) -> bool:
    """Whether the beginning of a string says so."""
    first = text.values[0] if isinstance(text, ast.JoinedStr) and text.values else text
    if isinstance(first, ast.BinOp):
        return is_sql(first.left)
    return isinstance(first, ast.Constant) and isinstance(first.value, str) and first.value.lstrip().startswith(VERBS)


def interpolated(tree: ast.AST) -> Iterator[str]:
    """What is put into SQL by any of Python's ways: f-strings, %, +, format."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) and is_sql(node):
            yield from (ast.unparse(part.value) for part in node.values if isinstance(part, ast.FormattedValue))
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod | ast.Add) and is_sql(node.left):
            yield ast.unparse(node.right)
        elif isinstance(node, ast.Call) and name_of(node) == "format" and is_sql(getattr(node.func, "value", node)):
            yield ast.unparse(node)


def not_literal(tree: ast.AST) -> Iterator[str]:
    """What is handed to SQLAlchemy as SQL without being a literal."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and name_of(node) in TAKES_SQL and node.args:
            sql = node.args[0]
            if not isinstance(sql, ast.Constant | ast.JoinedStr):  # of the latter, its parts are looked at
                yield ast.unparse(sql)


HANDED_ON = {
    ("services/item_codes.py", "_vector_table_ddl(number, self._embedder.dim)"),
    ("services/simulated_events.py", "_INSERT[self._database.name]"),
}
"""SQL that stands elsewhere in the same file, whose f-strings are looked at."""


def test_sql_is_built_of_nothing_but_our_own_names_and_numbers() -> None:
    found = {(path, part) for path, tree in program() for part in interpolated(tree)}
    assert found - BUILT_OF_OUR_OWN == set()
    assert BUILT_OF_OUR_OWN - found == set(), "no longer there"


def test_what_is_handed_over_as_sql_is_written_there() -> None:
    found = {(path, sql) for path, tree in program() for sql in not_literal(tree)}
    assert found - HANDED_ON == set()


@pytest.mark.parametrize(
    "line",
    [
        "run(f'SELECT * FROM t WHERE a = {x}')",
        "run('SELECT * FROM t WHERE a = %s' % x)",
        "run('DELETE FROM t WHERE a = ' + x)",
        "run('DELETE FROM t WHERE a = ' + x + ' AND b')",
        "run('UPDATE t SET a = {}'.format(x))",
        "q = f'  INSERT INTO {x} VALUES (1)'",
    ],
)
def test_the_walk_sees_every_way_to_build_sql(line: str) -> None:
    assert list(interpolated(ast.parse(line)))


@pytest.mark.parametrize(
    "line", ["sa.text(x)", "connection.exec_driver_sql(a + b)", "column.op(x)(1)", "query.prefix_with(x)"]
)
def test_the_walk_sees_sql_from_elsewhere(line: str) -> None:
    assert list(not_literal(ast.parse(line)))


def test_the_walk_lets_parameters_be() -> None:
    tree = ast.parse("sa.text('SELECT :a'); run(f'no sql: {x}'); sa.select(t.c.a).where(t.c.b == x)")
    assert list(interpolated(tree)) + list(not_literal(tree)) == []


# --- names of Redis keys ---

ODD = st.text(min_size=1, max_size=300)


@given(job_id=ODD, idempotency_key=ODD)
async def test_a_name_in_redis_is_a_prefix_of_ours_and_an_id_that_was_checked(
    job_id: str, idempotency_key: str
) -> None:
    job = Job(job_id=job_id, member_id=7, favorite_item_ids=(), idempotency_key=idempotency_key)
    try:
        job = decode_job(encode_job(job))
    except (InvalidMessage, UnicodeEncodeError):
        return
    async with open_redis("memory://", max_connections=2, timeout_s=5) as client:
        cache = RedisResultCache(client, HandClock(), job_ttl_s=60, cache_ttl_s=60, lease_s=5)
        await cache.claim(job, token="t")
        names = {name if isinstance(name, str) else name.decode() for name in await client.keys()}
    checked = {STATUS_PREFIX + job.job_id, LEASE_PREFIX + job.job_id, f"{INDEX_PREFIX}7"}
    assert checked <= names
    [other] = names - checked
    assert other.startswith(f"{IDEMPOTENCY_PREFIX}7:")
    assert all(len(name) <= MAX_JOB_ID_CHARS + 40 and name.isprintable() for name in {other})


@pytest.mark.parametrize("key", ["a" * 1000, "line\nbreak", "with space", "\u200bhidden", "키"])
async def test_an_idempotency_key_of_any_kind_is_honoured_by_a_name_of_bounded_length(key: str) -> None:
    async with open_redis("memory://", max_connections=2, timeout_s=5) as client:
        cache = RedisResultCache(client, HandClock(), job_ttl_s=60, cache_ttl_s=60, lease_s=5)
        first, second = (
            Job(job_id=job_id, member_id=7, favorite_item_ids=(), idempotency_key=key) for job_id in ("a", "b")
        )
        claims = [await cache.claim(job, token=job.job_id) for job in (first, second)]
        names = await client.keys(f"{IDEMPOTENCY_PREFIX}*")
    assert claims[0] != claims[1]
    assert len(names) == 1
    assert len(names[0]) == len(f"{IDEMPOTENCY_PREFIX}7:") + 32


@pytest.mark.parametrize("job_id", ["a\nb", "a\x00", "a\u2028b", "", "  ", "x" * (MAX_JOB_ID_CHARS + 1)])
def test_an_id_that_no_name_should_hold_is_refused(job_id: str) -> None:
    with pytest.raises(InvalidMessage, match="jobId"):
        decode_job(encode_job(Job(job_id=job_id, member_id=1, favorite_item_ids=())))
