"""Splitting migrations into statements, and classifying them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vsyncd.migrate.dirty_state import (
    Detach,
    IndexBuild,
    IndexDrop,
    PartialState,
    Reindex,
    is_repeatable,
    partial_state,
)
from vsyncd.migrate.statements import put_schema, split_statements


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1",
        "SELECT ';'",
        "SELECT 'it''s; fine'",
        r"SELECT E'a\';b', e'\\'",
        r"SELECT '\', 1",
        'SELECT 1 AS ";"',
        'SELECT 1 AS "a"";"',
        "SELECT $$;$$",
        "SELECT $a$ $$;$$ ; $b$ $a$",
        "SELECT $é$;$é$",
        "SELECT foo$bar, $1 -- ;\n + 2",
        "SELECT /* ; /* ; */ ; */ 1",
        "SELECT 1 /* never closed ;",
        "SELECT $$ never closed ;",
        "CREATE RULE r AS ON INSERT TO t DO ALSO (SELECT 1; SELECT 2)",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 1 END; END",
        "create or replace procedure p() begin atomic select 1; end",
        "CREATE PROCEDURE p() BEGIN ATOMIC END",
        "CREATE FUNCTION f(begin int) RETURNS int BEGIN ATOMIC SELECT begin; END",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT t.end AS case, 1 end FROM t; SELECT 2; END",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN a THEN atomic END FROM t; SELECT 2; END",
        "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM 1; END $$",
        "CREATE TABLE t (begin int, \"end\" text DEFAULT ')')",
        "CREATE FUNCTION f(begin int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE FUNCTION f() RETURNS TABLE (begin int, atomic int) LANGUAGE sql AS 'SELECT 1, 2'",
        "CREATE FUNCTION f(begin atomic) RETURNS int RETURN begin",
        "CREATE FUNCTION f(begin int) RETURNS int RETURN begin + CASE begin WHEN 1 THEN 1 END",
        "CREATE PROCEDURE begin() LANGUAGE plpgsql AS $$ BEGIN COMMIT; END $$",
        'CREATE FUNCTION "begin"."atomic"() RETURNS begin LANGUAGE sql AS $$ SELECT 1 $$',
    ],
)
def test_a_nested_semicolon_does_not_end_a_statement(statement: str) -> None:
    assert [found.text for found in split_statements(statement)] == [statement]
    if "never closed" not in statement:
        found = [found.text for found in split_statements(f"{statement};\n;;\nSELECT 2;{statement}\n;")]
        assert [text.strip() for text in found] == [statement, "SELECT 2", statement]


def test_a_statement_starts_after_white_space_and_comments() -> None:
    text = "-- one\n\n/* two\n   lines */ SELECT\n  1;\n\n-- and\nSELECT 2;\n-- the end;\n"
    first, second = split_statements(text)
    assert (first.line, first.text) == (4, "SELECT\n  1")
    assert (second.line, second.text) == (8, "SELECT 2")
    assert [first.line_at(position) for position in (None, 1, 7, 8, 10)] == [4, 4, 4, 5, 5]


def test_words_are_the_first_words_in_upper_case() -> None:
    words = [found.words for found in split_statements("commit; Create Unique /* x */ index concurrently i on t (a)")]
    assert words == ["COMMIT", "CREATE UNIQUE INDEX CONCURRENTLY"]


@pytest.mark.parametrize("text", ["", " \n", ";", "-- nothing", "/* nothing */ ; -- at all"])
def test_empty_text_has_no_statements(text: str) -> None:
    assert list(split_statements(text)) == []


@given(st.text(alphabet="abE'\"$;()-/*\\ \n1"))
def test_statements_are_found_unchanged_and_in_order_in_any_text(text: str) -> None:
    lines = text.split("\n")
    position = 0
    for found in split_statements(text):
        line_begins = len("\n".join(lines[: found.line - 1])) + (found.line > 1)
        # Searched from its line on: a comment may contain the same text.
        begin = text.index(found.text, max(position, line_begins))
        assert text.count("\n", 0, begin) + 1 == found.line
        position = begin + len(found.text)


def test_a_comment_is_not_part_of_the_next_statement() -> None:
    assert [(found.text, found.line) for found in split_statements("--1\n1")] == [("1", 2)]


def test_only_the_quoted_schema_name_is_replaced() -> None:
    sql = """SELECT '"vsync".t', "vsync".t -- vsync "vsync2" """
    assert put_schema(sql, "other") == """SELECT '"other".t', "other".t -- vsync "vsync2" """


@pytest.mark.parametrize(
    ("text", "is_exclusive"),
    [
        ("VACUUM FULL t", True),
        ("vacuum (analyze, full) t", True),
        ("VACUUM t", False),
        ("VACUUM (ANALYZE) full_of_rows", False),
        ("CREATE INDEX CONCURRENTLY i ON t (id)", False),
        ("CREATE INDEX i ON t (id)", True),
        ("REINDEX (VERBOSE, CONCURRENTLY) TABLE t", False),
        ("REINDEX (CONCURRENTLY off) TABLE t", True),
        ("REINDEX SCHEMA s", True),
        ("CLUSTER", True),
        ("REFRESH MATERIALIZED VIEW CONCURRENTLY m", True),
        ("ALTER TABLE p DETACH PARTITION q CONCURRENTLY", False),
        ("ALTER TABLE p DETACH PARTITION q FINALIZE", True),
    ],
)
def test_statements_that_block_other_sessions_are_recognised(text: str, *, is_exclusive: bool) -> None:
    (statement,) = split_statements(text)
    assert statement.is_exclusive is is_exclusive


@pytest.mark.parametrize(
    ("text", "may_commit", "is_atomic"),
    [
        ("/* x */ call p()", True, False),
        ("DO $$ BEGIN COMMIT; END $$", True, False),
        ("DO LANGUAGE plpgsql $$ BEGIN COMMIT; END $$", True, False),
        ("SELECT call()", False, True),
        ("CREATE RULE r AS ON INSERT TO t DO NOTHING", False, True),
        ("CREATE INDEX CONCURRENTLY i ON t (id)", False, False),
    ],
)
def test_statements_that_can_have_a_partial_effect_are_recognised(
    text: str, *, may_commit: bool, is_atomic: bool
) -> None:
    (statement,) = split_statements(text)
    assert (statement.may_commit, statement.is_atomic) == (may_commit, is_atomic)


@pytest.mark.parametrize(
    "text",
    [
        "create unique index concurrently i on t (id)",
        "CREATE INDEX CONCURRENTLY ON t (id)",
        "DROP INDEX /* x */ CONCURRENTLY IF EXISTS i",
        "REINDEX INDEX CONCURRENTLY i",
        "REINDEX (CONCURRENTLY) INDEX i",
        "REINDEX (VERBOSE, CONCURRENTLY true) TABLE t",
        "REINDEX (CONCURRENTLY 1, TABLESPACE x) SCHEMA s",
        "REINDEX DATABASE CONCURRENTLY",
        "REINDEX SYSTEM",
        "REINDEX (VERBOSE) SCHEMA s",
        'ALTER TABLE IF EXISTS ONLY "s" . "a b" * DETACH PARTITION s."c d" -- now\nCONCURRENTLY',
        "VACUUM",
        "CLUSTER (VERBOSE)",
        "ALTER DATABASE d SET TABLESPACE t",
        "CREATE DATABASE d",
        "ROLLBACK PREPARED 'x'",
    ],
)
def test_statements_that_commit_are_recognised_in_every_syntax(text: str) -> None:
    (statement,) = split_statements(text)
    assert (statement.needs_no_transaction, statement.is_atomic) == (True, False)


@pytest.mark.parametrize(
    "text",
    [
        "REINDEX TABLE t",
        "REINDEX (CONCURRENTLY off) INDEX i",
        "REINDEX (VERBOSE, CONCURRENTLY FALSE) TABLE t",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY m",
        "ALTER TABLE p DETACH PARTITION q",
        "ALTER TABLE p DETACH PARTITION q FINALIZE",
        "ALTER TYPE t ADD VALUE 'x'",
        "CLUSTER t USING i",
        "ANALYZE t",
        "SELECT 'REINDEX INDEX CONCURRENTLY i'",
    ],
)
def test_atomic_statements_can_run_in_a_transaction(text: str) -> None:
    (statement,) = split_statements(text)
    assert (statement.needs_no_transaction, statement.is_atomic) == (False, True)


@pytest.mark.parametrize(
    ("text", "expected", "repeatable"),
    [
        ('CREATE INDEX CONCURRENTLY "A""b" ON ONLY s . t (x)', IndexBuild('A"b', "s . t", may_exist=False), True),
        ("create index concurrently if not exists Ab on T (x)", IndexBuild("ab", "T", may_exist=True), True),
        ("CREATE INDEX CONCURRENTLY ON t (x)", IndexBuild(None, "t", may_exist=False), False),
        ("DROP INDEX CONCURRENTLY IF EXISTS s.i CASCADE", IndexDrop("s . i"), True),
        ("REINDEX (CONCURRENTLY) INDEX s.i", Reindex("INDEX", "s . i"), True),
        ("reindex database concurrently", Reindex("DATABASE", None), True),
        ("REINDEX SYSTEM CONCURRENTLY d", PartialState(), True),
        ("ALTER TABLE p DETACH PARTITION s.q FINALIZE", Detach("p", "s . q"), True),
        ("REFRESH MATERIALIZED VIEW CONCURRENTLY m", PartialState(), True),
        ("ALTER TYPE s.t ADD VALUE IF NOT EXISTS 'x'", PartialState(), True),
        ("ALTER TYPE s.t ADD VALUE 'x'", PartialState(), False),
        ("CREATE DATABASE d", PartialState(), False),
        ("CALL p()", PartialState(), False),
    ],
)
def test_partial_state_and_repeatability_of_interrupted_statements(
    text: str, expected: PartialState, *, repeatable: bool
) -> None:
    (statement,) = split_statements(text)
    state = partial_state(statement)
    assert type(state) is type(expected)
    assert vars(state) == vars(expected)
    assert is_repeatable(statement) is repeatable
