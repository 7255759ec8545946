"""Log events are JSON lines without personal data and secrets."""

import asyncio
import gc
import io
import logging
import re

import pytest
from vsyncd.core.context import RequestContext, reset_current_context, set_current_context
from vsyncd.observability.logs import MASK, PERSONAL_FIELDS, SECRET_FIELDS, logger

from tests.harness.logs import captured_logs

SECRET = "sEcReT-7f3a9c"  # noqa: S105  a value to be looked for where it must not be


def _fail() -> None:
    raise ValueError(SECRET)


def test_a_line_is_json_with_its_time_level_and_logger() -> None:
    with captured_logs(level="INFO") as log:
        logger("vsyncd.test").debug("not this")
        logger("vsyncd.test").info("served", rows=3)
        logging.getLogger("grpc").warning("from a %s", "library")
    ours, theirs = log.events
    assert (ours["event"], ours["level"], ours["logger"], ours["rows"]) == ("served", "info", "vsyncd.test", 3)
    assert ours["time"].endswith("Z")
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("from a library", "warning", "grpc")


class _Terminal(io.StringIO):
    """A standard error that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("is_terminal", "form"), [(True, "auto"), (True, "console"), (False, "console")])
def test_a_console_line_begins_with_its_time_and_level(is_terminal: bool, form: str) -> None:
    with captured_logs(form=form, stream=_Terminal() if is_terminal else io.StringIO()) as log:
        logger("vsyncd.test").warning("served", rows=3)
    plain = re.sub(r"\x1b\[[\d;]*m", "", log.text)
    assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z \[warning *\] served ", plain)
    assert "rows=3" in plain
    assert ("\x1b[" in log.text) == is_terminal


def test_the_auto_format_is_json_without_a_terminal() -> None:
    with captured_logs(form="auto") as log:
        logger("vsyncd.test").info("served")
    assert [line["event"] for line in log.events] == ["served"]


def test_an_event_has_the_fields_of_the_current_call() -> None:
    token = set_current_context(RequestContext(method="vsync.v1.CidService/GetCid", correlation_id="trace-1"))
    try:
        with captured_logs() as log:
            logger("vsyncd.test").info("served")
    finally:
        reset_current_context(token)
    assert (log.events[0]["correlation_id"], log.events[0]["method"]) == ("trace-1", "vsync.v1.CidService/GetCid")


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("name", sorted(PERSONAL_FIELDS | SECRET_FIELDS))
def test_personal_and_secret_fields_are_masked(name: str, form: str) -> None:
    with captured_logs(form=form) as log:
        logger("vsyncd.test").warning("seen", **{name: SECRET})
    assert SECRET not in log.text
    assert MASK in log.text


@pytest.mark.parametrize("form", ["json", "console"])
def test_an_error_is_logged_with_type_and_location_but_not_its_text(form: str) -> None:
    with captured_logs(form=form) as log:
        try:
            _fail()
        except ValueError as error:
            logger("vsyncd.test").error("broken", exc_info=error)
            logger("vsyncd.test").exception("broken")
            logging.getLogger("grpc").exception("broken")
    assert SECRET not in log.text
    assert log.text.count("ValueError") == 3
    assert log.text.count("_fail") == 3


async def test_asyncios_message_about_a_lost_error_does_not_quote_it() -> None:
    async def fail() -> None:
        _fail()

    with captured_logs() as log:
        task = asyncio.create_task(fail())
        await asyncio.wait([task])
        del task
        gc.collect()
    assert [line["event"] for line in log.events if line["logger"] == "asyncio"] == [
        "Task exception was never retrieved"
    ]
    assert SECRET not in log.text


def test_an_answer_after_the_end_of_its_call_is_no_event() -> None:
    """gRPC logs it as an error, although the client's deadline causes it."""

    class ExecuteBatchError(Exception):
        pass

    with captured_logs() as log:
        for error in (ExecuteBatchError(), ValueError()):
            logging.getLogger("grpc._cython.cygrpc").error("raised in core", exc_info=error)
    assert [event["error"] for event in log.events] == ["ValueError"]
