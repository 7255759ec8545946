"""Lists that the server returns page by page."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

import click

from vsync.cli.console import print_json, stderr, stdout
from vsync.cli.messages import fields_of
from vsync.cli.tables import Cell, print_table

_MAX_PAGE: Final = 1000

limit_option = click.option(
    "--limit", type=click.IntRange(min=1), default=100, show_default=True, help="The maximum number of lines."
)


class Page(NamedTuple):
    """The first elements of a list. `more`: whether the list has further ones."""

    elements: Sequence[Any]
    more: bool


def read_pages(call: Callable[[Any], Any], request: Any, name: str, limit: int) -> Page:  # noqa: ANN401 - any list
    """Calls a list method until it has returned `limit` elements of its field `name`, or all. Raises CallError."""

    def elements() -> Iterator[Any]:
        request.page_size = min(limit + 1, _MAX_PAGE)
        while True:
            answer = call(request)
            yield from getattr(answer, name)
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    found = list(islice(elements(), limit + 1))
    return Page(found[:limit], more=len(found) > limit)


def print_page(
    page: Page, name: str, columns: Sequence[str], row: Callable[[Any], Sequence[Cell]], *, as_json: bool
) -> None:
    """Prints a list as a table, or as an object with the list `name` and `more`."""
    if as_json:
        print_json({name: [fields_of(element) for element in page.elements], "more": page.more})
        return
    if page.elements:
        print_table(stdout(), columns, [row(element) for element in page.elements])
    else:
        stdout().out("nothing found")
    if page.more:
        stderr().out(f"only the first {len(page.elements):,} are shown: --limit shows more")
