"""Splits the text of a migration into statements, and classifies them."""

import re
from collections.abc import Iterator
from typing import NamedTuple

# Replaced by the quoted name of the schema.
SCHEMA_PLACEHOLDER = '"vsync"'

# The tokens of PostgreSQL that can contain a semicolon (manual, 4.1). Each character belongs to one token.
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

# Statements are classified by their `code`, whose tokens are separated by one space.
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
# PostgreSQL rejects these in a transaction, because they commit several times.
_COMMITS = re.compile(
    r"(?:VACUUM|CREATE DATABASE|DROP DATABASE|ALTER SYSTEM|CREATE TABLESPACE|DROP TABLESPACE"
    r"|COMMIT PREPARED|ROLLBACK PREPARED|REINDEX (?:\( [^()]* \) )?(?:SCHEMA|DATABASE|SYSTEM))\b"
    r"|CLUSTER(?: VERBOSE| \( [^()]* \))?$|ALTER DATABASE .* SET TABLESPACE ",
    re.IGNORECASE,
)
# The options are in parentheses or before the table.
_VACUUM_FULL = re.compile(r"VACUUM (?:\([^()]*\bFULL\b|FULL\b)", re.IGNORECASE)
_LOCKS_TABLES = re.compile(r"REINDEX|CLUSTER", re.IGNORECASE)
# These also change another server, which does not roll back.
_REMOTE = re.compile(r"(?:CREATE|ALTER|DROP) SUBSCRIPTION\b", re.IGNORECASE)
_CLIENT_COPY = re.compile(
    rf"COPY (?:BINARY )?(?:''|{QUALIFIED_NAME})(?: '')? (?:FROM|TO) (?:STDIN|STDOUT)\b", re.IGNORECASE
)
_GROUP = re.compile(r"\([^()]*\)")
_FALSE = frozenset({"FALSE", "OFF", "0"})


class Statement(NamedTuple):
    """A statement without its semicolon. `line`: its first line in the file, from 1."""

    text: str
    line: int
    words: str
    """The first four words in upper case."""
    code: str
    """The tokens without comments, separated by one space; literals are replaced by `''`."""

    @property
    def is_concurrent(self) -> bool:
        """Whether it is a CONCURRENTLY statement that commits several times."""
        detach = DETACH.match(self.code)
        return (
            f"{self.words} ".startswith(("CREATE INDEX CONCURRENTLY ", "CREATE UNIQUE INDEX CONCURRENTLY "))
            or INDEX_DROP.match(self.code) is not None
            or self.is_concurrent_reindex
            or (detach is not None and detach["how"].upper() == "CONCURRENTLY")
        )

    @property
    def is_concurrent_reindex(self) -> bool:
        """Whether it is REINDEX CONCURRENTLY, in either syntax."""
        match = REINDEX.match(self.code)
        if match is None:
            return False
        options = [option.upper().split() for option in (match["options"] or "").split(",")]
        return match["concurrently"] is not None or any(
            option[:1] == ["CONCURRENTLY"] and not _FALSE.intersection(option[1:]) for option in options
        )

    @property
    def needs_no_transaction(self) -> bool:
        """Whether PostgreSQL rejects it in a transaction."""
        return self.is_concurrent or _COMMITS.match(self.code) is not None

    @property
    def may_commit(self) -> bool:
        """Whether the code that it calls can commit, so that a part of its effect remains when it fails."""
        return f"{self.words} ".startswith(("CALL ", "DO "))

    @property
    def is_atomic(self) -> bool:
        """Whether it had no effect if the server rejected it."""
        return not (self.needs_no_transaction or self.may_commit or _REMOTE.match(self.code))

    @property
    def is_exclusive(self) -> bool:
        """Whether it blocks other sessions while it runs, and those that queue while it waits for its lock."""
        if self.is_concurrent:
            return False
        locks = _VACUUM_FULL.match(self.code) or _LOCKS_TABLES.match(self.code)
        return not self.needs_no_transaction or locks is not None

    @property
    def copies_from_client(self) -> bool:
        """Whether it is COPY FROM STDIN or COPY TO STDOUT, which need a client that transfers the rows."""
        if not f"{self.words} ".startswith("COPY "):
            return False
        outline = self.code
        while (shorter := _GROUP.sub("''", outline)) != outline:
            outline = shorter
        return _CLIENT_COPY.match(outline) is not None

    def psql_command(self) -> tuple[str, int] | None:
        """Returns a psql command in it, such as `\\copy`, and its line: SQL has no backslash outside quotes."""
        position = 0 if "\\" in self.code else len(self.text)
        while position < len(self.text):
            token = _token_at(self.text, position)
            if token.text == "\\":
                command = re.match(r"\\\S*", self.text[position:])
                return command[0] if command else token.text, self.line_at(position + 1)
            position = token.end
        return None

    def line_at(self, position: int | None) -> int:
        """Returns the file's line at a position in the statement: in characters from 1, as in PostgreSQL's errors."""
        return self.line + self.text.count("\n", 0, (position or 1) - 1)


def put_schema(sql: str, schema: str) -> str:
    """Returns the text for a schema. DB_SCHEMA permits only letters, digits and `_`, which need no escaping."""
    return sql.replace(SCHEMA_PLACEHOLDER, f'"{schema}"')


def split_statements(sql: str) -> Iterator[Statement]:
    """Split a text into statements as psql does. An unclosed quote extends to the end; the server rejects it."""
    begin = position = 0
    words: list[str] = []
    tokens: list[str] = []
    depth = _Depth()
    is_empty = True
    while position < len(sql):
        token = _token_at(sql, position)
        position = token.end
        if token.kind in {"space", "comment", "block"}:
            begin = position if is_empty else begin
        elif token.text == ";" and depth.is_outside:
            if not is_empty:
                yield _statement(sql, begin, token.begin, words, tokens)
            begin, words, tokens, is_empty = position, [], [], True
        else:
            is_empty = False
            if token.kind == "word" and len(words) < 4:
                words.append(token.text.upper())
            is_literal = token.kind == "dollar" or (token.kind == "quoted" and not token.text.startswith('"'))
            tokens.append("''" if is_literal else token.text)
            depth.follow(token, words)
    if not is_empty:
        yield _statement(sql, begin, len(sql), words, tokens)


class _Token(NamedTuple):
    text: str
    begin: int
    end: int
    kind: str


class _Depth:
    """The nesting in parentheses and in a routine's `BEGIN ATOMIC ... END`."""

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
            # Every statement of a body ends with a semicolon. The END of a CASE, or a column of that name, never
            # follows one.
            self._in_body = (self._before, word) != (";", "END")
        elif self._parentheses == 0 and (self._before, word) == ("BEGIN", "ATOMIC"):
            self._in_body = _ROUTINE.match(" ".join(words)) is not None
            word = ";"  # the body may be empty
        self._before = word


def _token_at(sql: str, position: int) -> _Token:
    match = _TOKEN.match(sql, position)
    if match is None:
        raise AssertionError("the last alternative matches any character")
    kind = match.lastgroup or "other"
    end = match.end()
    if kind == "dollar":
        close = sql.find(match[0], end)
        end = len(sql) if close < 0 else close + len(match[0])
    elif kind == "block":
        end = _block_end(sql, end)
    return _Token(sql[position:end], position, end, kind)


def _block_end(sql: str, position: int) -> int:
    # SQL's block comments nest.
    depth = 1
    for edge in _BLOCK_EDGE.finditer(sql, position):
        depth += 1 if edge[0] == "/*" else -1
        if depth == 0:
            return edge.end()
    return len(sql)


def _statement(sql: str, begin: int, end: int, words: list[str], tokens: list[str]) -> Statement:
    return Statement(sql[begin:end], sql.count("\n", 0, begin) + 1, " ".join(words), " ".join(tokens))
