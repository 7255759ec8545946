"""The text of a migration: the placeholder in it, and the statements that it is made of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

# What stands in the files for the schema, with its quotation marks.
SCHEMA_PLACEHOLDER = '"vsync"'

# PostgreSQL's tokens as far as they can hide a semicolon (its manual, 4.1). Every character belongs to one of them.
_TOKEN = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<comment>--[^\n]*)
    | (?P<block>/\*)
    | (?P<quoted>[eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*")
    | (?P<dollar>\$(?:[^\W\d]\w*)?\$)
    | (?P<word>[^\W\d][\w$]*)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_BLOCK_EDGE = re.compile(r"/\*|\*/")
_ROUTINE = re.compile(r"CREATE (OR REPLACE )?(FUNCTION|PROCEDURE)\b")

# Statements are classified by their `code`, in which one space separates the tokens.
_NAME = r'(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)'
QUALIFIED_NAME = rf"{_NAME}(?: \. {_NAME}){{0,2}}"
INDEX_BUILD = re.compile(
    rf"CREATE (?:UNIQUE )?INDEX CONCURRENTLY (?:(?P<may_exist>IF NOT EXISTS )?(?P<name>{_NAME}) )?"
    rf"ON (?:ONLY )?(?P<table>{QUALIFIED_NAME})",
    re.IGNORECASE,
)
INDEX_DROP = re.compile(rf"DROP INDEX CONCURRENTLY (?:IF EXISTS )?(?P<name>{QUALIFIED_NAME})", re.IGNORECASE)
REINDEX = re.compile(
    r"REINDEX (?:\( (?P<options>[^()]*) \) )?(?P<kind>INDEX|TABLE|SCHEMA|DATABASE|SYSTEM)\b"
    rf"(?P<concurrently> CONCURRENTLY\b)?(?: (?P<name>{QUALIFIED_NAME}))?",
    re.IGNORECASE,
)
DETACH = re.compile(
    rf"ALTER TABLE (?:IF EXISTS )?(?:ONLY )?(?P<table>{QUALIFIED_NAME})(?: \*)? "
    rf"DETACH PARTITION (?P<partition>{QUALIFIED_NAME}) (?P<how>CONCURRENTLY|FINALIZE)$",
    re.IGNORECASE,
)
# PostgreSQL refuses them in a transaction, since they commit in the middle of their work.
_COMMITS = re.compile(
    r"(?:VACUUM|CREATE DATABASE|DROP DATABASE|ALTER SYSTEM|CREATE TABLESPACE|DROP TABLESPACE"
    r"|COMMIT PREPARED|ROLLBACK PREPARED|REINDEX (?:\( [^()]* \) )?(?:SCHEMA|DATABASE|SYSTEM))\b"
    r"|CLUSTER(?: VERBOSE| \( [^()]* \))?$|ALTER DATABASE .* SET TABLESPACE ",
    re.IGNORECASE,
)
# Its options stand in parentheses, or before the table.
_VACUUM_FULL = re.compile(r"VACUUM (?:\([^()]*\bFULL\b|FULL\b)", re.IGNORECASE)
_LOCKS_TABLES = re.compile(r"REINDEX|CLUSTER", re.IGNORECASE)
# They act on another server too, which does not roll back.
_REMOTE = re.compile(r"(?:CREATE|ALTER|DROP) SUBSCRIPTION\b", re.IGNORECASE)
_CLIENT_COPY = re.compile(
    rf"COPY (?:BINARY )?(?:''|{QUALIFIED_NAME})(?: '')? (?:FROM|TO) (?:STDIN|STDOUT)\b", re.IGNORECASE
)
_GROUP = re.compile(r"\([^()]*\)")
_FALSE = frozenset({"FALSE", "OFF", "0"})


class Statement(NamedTuple):
    """One statement, without its semicolon; `line` is where it begins in the file, from 1."""

    text: str
    line: int
    words: str
    """Its first four words, in capitals."""
    code: str
    """Its tokens separated by one space, without comments; every literal is `''`."""

    @property
    def is_concurrent(self) -> bool:
        """Whether it is one of the CONCURRENTLY statements that commit in the middle of their work."""
        detach = DETACH.match(self.code)
        return (
            f"{self.words} ".startswith(("CREATE INDEX CONCURRENTLY ", "CREATE UNIQUE INDEX CONCURRENTLY "))
            or INDEX_DROP.match(self.code) is not None
            or self.is_concurrent_reindex
            or (detach is not None and detach["how"].upper() == "CONCURRENTLY")
        )

    @property
    def is_concurrent_reindex(self) -> bool:
        """Whether it is REINDEX CONCURRENTLY, in either spelling."""
        match = REINDEX.match(self.code)
        if match is None:
            return False
        options = [option.upper().split() for option in (match["options"] or "").split(",")]
        return match["concurrently"] is not None or any(
            option[:1] == ["CONCURRENTLY"] and not _FALSE.intersection(option[1:]) for option in options
        )

    @property
    def needs_no_transaction(self) -> bool:
        """Whether PostgreSQL refuses it in a transaction."""
        return self.is_concurrent or _COMMITS.match(self.code) is not None

    @property
    def may_commit(self) -> bool:
        """Whether what it executes can commit in the middle, so that a part of it stands when it fails."""
        return f"{self.words} ".startswith(("CALL ", "DO "))

    @property
    def is_atomic(self) -> bool:
        """Whether it took no effect when the server refused it."""
        return not (self.needs_no_transaction or self.may_commit or _REMOTE.match(self.code))

    @property
    def is_exclusive(self) -> bool:
        """Whether it locks out others for as long as it runs, and those who come while it waits for its lock."""
        if self.is_concurrent:
            return False
        locks = _VACUUM_FULL.match(self.code) or _LOCKS_TABLES.match(self.code)
        return not self.needs_no_transaction or locks is not None

    @property
    def copies_from_client(self) -> bool:
        """Whether it is COPY FROM STDIN or COPY TO STDOUT, whose rows the client sends or receives."""
        if not f"{self.words} ".startswith("COPY "):
            return False
        outline = self.code
        while (shorter := _GROUP.sub("''", outline)) != outline:
            outline = shorter
        return _CLIENT_COPY.match(outline) is not None

    def psql_command(self) -> tuple[str, int] | None:
        """A command of psql in it, such as `\\copy`, with its line: SQL has no backslash outside of quotes."""
        position = 0 if "\\" in self.code else len(self.text)
        while position < len(self.text):
            token = _token_at(self.text, position)
            if token.text == "\\":
                command = re.match(r"\\\S*", self.text[position:])
                return command[0] if command else token.text, self.line_at(position + 1)
            position = token.end
        return None

    def line_at(self, position: int | None) -> int:
        """The file's line at a position in the statement, in characters from 1, as PostgreSQL's errors have it."""
        return self.line + self.text.count("\n", 0, (position or 1) - 1)


def put_schema(sql: str, schema: str) -> str:
    """The text for this schema. The name needs no escape: DB_SCHEMA takes letters, digits and `_` only."""
    return sql.replace(SCHEMA_PLACEHOLDER, f'"{schema}"')


def split_statements(sql: str) -> Iterator[Statement]:
    """Cut a text into statements, as psql does. What is not closed goes on to the end, and the server refuses it."""
    begin = position = 0
    words: list[str] = []
    tokens: list[str] = []
    depth = _Depth()
    is_empty = True
    while position < len(sql):
        token = _token_at(sql, position)
        position = token.end
        if token.is_blank:
            begin = position if is_empty else begin
        elif token.text == ";" and depth.is_outside:
            if not is_empty:
                yield _statement(sql, begin, token.begin, words, tokens)
            begin, words, tokens, is_empty = position, [], [], True
        else:
            is_empty = False
            if token.is_word and len(words) < 4:
                words.append(token.text.upper())
            tokens.append("''" if token.is_literal else token.text)
            depth.follow(token, words)
    if not is_empty:
        yield _statement(sql, begin, len(sql), words, tokens)


class _Token(NamedTuple):
    text: str
    begin: int
    end: int
    kind: str

    @property
    def is_blank(self) -> bool:
        return self.kind in {"space", "comment", "block"}

    @property
    def is_literal(self) -> bool:
        return self.kind == "dollar" or (self.kind == "quoted" and not self.text.startswith('"'))

    @property
    def is_word(self) -> bool:
        return self.kind == "word"


class _Depth:
    """How deep in parentheses and in a routine's `BEGIN ATOMIC ... END` the text is."""

    def __init__(self) -> None:
        self._parentheses = 0
        self._in_body = False
        self._before = ""

    @property
    def is_outside(self) -> bool:
        return self._parentheses == 0 and not self._in_body

    def follow(self, token: _Token, words: list[str]) -> None:
        word = token.text.upper()
        if word == "(":
            self._parentheses += 1
        elif word == ")":
            self._parentheses = max(0, self._parentheses - 1)
        elif self._parentheses == 0 and self._in_body:
            # Each statement of a body has its semicolon, so that no END of a CASE, and no column of that name, is
            # behind one.
            self._in_body = (self._before, word) != (";", "END")
        elif self._parentheses == 0 and (self._before, word) == ("BEGIN", "ATOMIC"):
            self._in_body = _ROUTINE.match(" ".join(words)) is not None
            word = ";"  # its END may follow at once
        self._before = word


def _token_at(sql: str, position: int) -> _Token:
    match = _TOKEN.match(sql, position)
    if match is None:
        raise AssertionError("the last alternative takes any character")
    kind = match.lastgroup or "other"
    end = match.end()
    if kind == "dollar":
        close = sql.find(match[0], end)
        end = len(sql) if close < 0 else close + len(match[0])
    elif kind == "block":
        end = _block_end(sql, end)
    return _Token(sql[position:end], position, end, kind)


def _block_end(sql: str, position: int) -> int:
    # Comments nest in SQL.
    depth = 1
    for edge in _BLOCK_EDGE.finditer(sql, position):
        depth += 1 if edge[0] == "/*" else -1
        if depth == 0:
            return edge.end()
    return len(sql)


def _statement(sql: str, begin: int, end: int, words: list[str], tokens: list[str]) -> Statement:
    return Statement(sql[begin:end], sql.count("\n", 0, begin) + 1, " ".join(words), " ".join(tokens))
