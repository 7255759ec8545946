"""Reads messages of IOCs, and creates them from records."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Final, Protocol

from vsync.iocs.v1 import ioc_pb2 as pb

from vsyncd.core.ids import time_of
from vsyncd.core.paging import decode_page_token, encode_page_token
from vsyncd.core.tenants import Tenant
from vsyncd.core.timestamps import timestamp
from vsyncd.core.validation import Validator
from vsyncd.domains.iocs.records import (
    MAX_CONFIDENCE,
    MAX_SOURCE_CHARS,
    MAX_TAG_CHARS,
    MAX_TAGS,
    MAX_TTL,
    Ioc,
    IocFilter,
    IocKey,
    IocType,
    NewIoc,
    PutAnswer,
    audit_key,
)
from vsyncd.domains.iocs.values import CANONICALIZE, RULES

_TYPES: Final = range(min(IocType), max(IocType) + 1)
_MICROSECOND: Final = timedelta(microseconds=1)
_MAX_TTL_S: Final = int(MAX_TTL.total_seconds())
_MAX_TTL_US: Final = MAX_TTL // _MICROSECOND
_MAX_REVISION: Final = 2**63 - 1
_CACHED_IDENTIFIERS: Final = 4_096


class _Keyed(Protocol):
    type: pb.IocType.ValueType
    value: str


def read_key(validator: Validator, message: _Keyed, prefix: str = "") -> IocKey:
    """Returns the type and the canonical value of a message."""
    kind = validator.choice(f"{prefix}type", message.type, _TYPES)
    canonicalize = CANONICALIZE.get(kind)
    if canonicalize is None:  # `type` has a violation
        return IocKey(kind, "")
    value = canonicalize(message.value)
    if value is None:
        validator.add(f"{prefix}value", RULES[kind])
    return IocKey(kind, value or "")


def read_ioc(validator: Validator, message: pb.NewIoc, prefix: str) -> NewIoc:
    """Returns an IOC of a request."""
    return NewIoc(
        *read_key(validator, message, prefix),
        confidence=validator.number(f"{prefix}confidence", message.confidence, min_value=0, max_value=MAX_CONFIDENCE),
        source=_read_identifier(validator, f"{prefix}source", message.source, MAX_SOURCE_CHARS),
        tags=_read_tags(validator, message.tags, prefix) if message.tags else (),
        ttl_us=_read_ttl(validator, message, prefix) if message.HasField("ttl") else _MAX_TTL_US,
        revision=read_revision(validator, message, prefix),
    )


def read_revision(validator: Validator, message: pb.NewIoc | pb.DeleteIocRequest, prefix: str = "") -> int | None:
    """Returns the expected revision, or None."""
    if not message.HasField("revision"):
        return None
    return validator.number(f"{prefix}revision", message.revision, min_value=0, max_value=_MAX_REVISION)


def read_values(validator: Validator, kind: int, values: Sequence[str]) -> list[str]:
    """Returns the canonical values of one type, or none if the type or their number is invalid."""
    canonicalize = CANONICALIZE.get(validator.choice("type", kind, _TYPES))
    if not validator.batch("values", values) or canonicalize is None:
        return []
    canonical = [canonicalize(value) for value in values]
    for index, value in enumerate(canonical):
        if value is None:
            validator.add(f"values[{index}]", RULES[kind])
    return [value for value in canonical if value is not None]


def read_filter(validator: Validator, request: pb.ListIocsRequest) -> IocFilter:
    """Returns what a list selects."""
    return IocFilter(
        type=validator.choice("type", request.type, _TYPES, optional=True),
        source=validator.identifier("source", request.source, min_chars=0, max_chars=MAX_SOURCE_CHARS),
        tag=validator.identifier("tag", request.tag, min_chars=0, max_chars=MAX_TAG_CHARS),
        min_confidence=validator.number(
            "min_confidence", request.min_confidence, min_value=0, max_value=MAX_CONFIDENCE
        ),
    )


def ioc_message(ioc: Ioc, tenant: Tenant) -> pb.Ioc:
    """Returns the message of an IOC."""
    return pb.Ioc(
        type=pb.IocType.Name(ioc.type),  # type: ignore[arg-type]  # the name of a value
        value=ioc.value,
        confidence=ioc.confidence,
        source=ioc.source,
        tags=ioc.tags,
        revision=ioc.revision,
        created_at=timestamp(ioc.created_at),
        updated_at=timestamp(time_of(ioc.audit_id)),
        expires_at=timestamp(ioc.expires_at),
        id=audit_key(tenant, IocKey(ioc.type, ioc.value)),
        audit_id=str(ioc.audit_id),
    )


def put_message(new: NewIoc, answer: PutAnswer, tenant: Tenant) -> pb.PutIocResponse:
    """Returns the response of PutIoc."""
    (outcome,) = answer.outcomes
    ioc = Ioc(
        type=new.type,
        value=new.value,
        confidence=new.confidence,
        source=new.source,
        tags=list(new.tags),
        revision=outcome.revision,
        created_at=outcome.created_at,
        expires_at=outcome.expires_at,
        audit_id=answer.audit_id,
    )
    return pb.PutIocResponse(ioc=ioc_message(ioc, tenant), created=outcome.is_new)


def result_messages(new: Sequence[NewIoc], answer: PutAnswer) -> Iterator[pb.PutResult]:
    """Yields the results of a batch."""
    for each, outcome in zip(new, answer.outcomes, strict=True):
        yield pb.PutResult(
            value=each.value,
            revision=outcome.revision,
            created=outcome.is_new,
            expires_at=timestamp(outcome.expires_at),
        )


def decode_key(token: str, *scope: object) -> IocKey | None:
    """Returns the key in a page token, or None for the first page. Raises InvalidFields."""
    if not token:
        return None
    position = decode_page_token(token, "ListIocs", *scope)
    return IocKey(position[0], position[1:].decode())


def encode_key(key: IocKey | None, *scope: object) -> str:
    """Returns the page token after a key, or an empty text on the last page."""
    if key is None:
        return ""
    return encode_page_token(bytes([key.type]) + key.value.encode(), "ListIocs", *scope)


def _read_identifier(validator: Validator, field: str, text: str, max_chars: int) -> str:
    # The IOCs of a feed have few different sources and tags. Long texts are not cached.
    known = _valid_identifier(text, max_chars) if len(text) <= max_chars else None
    return known or validator.identifier(field, text, max_chars=max_chars)


@lru_cache(_CACHED_IDENTIFIERS)
def _valid_identifier(text: str, max_chars: int) -> str | None:
    validator = Validator()
    identifier = validator.identifier("", text, max_chars=max_chars)
    return None if validator.violations else identifier


def _read_tags(validator: Validator, tags: Sequence[str], prefix: str) -> tuple[str, ...]:
    if len(tags) > MAX_TAGS:
        validator.add(f"{prefix}tags", f"must have at most {MAX_TAGS} elements")
        return ()
    read = {_read_identifier(validator, f"{prefix}tags[{index}]", tag, MAX_TAG_CHARS) for index, tag in enumerate(tags)}
    return tuple(sorted(read))


def _read_ttl(validator: Validator, message: pb.NewIoc, prefix: str) -> int:
    return validator.duration(f"{prefix}ttl", message.ttl, min_seconds=1, max_seconds=_MAX_TTL_S) // _MICROSECOND
