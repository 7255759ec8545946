"""Parsing of REDIS_URL."""

import pytest
from vsyncd.config.endpoints import HostPort
from vsyncd.config.redis_url import RedisAddress, parse_redis_url


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("redis://", RedisAddress(hosts=(HostPort("localhost", 6379),))),
        (
            "redis://u:p%40ss@host:7000/3",
            RedisAddress(hosts=(HostPort("host", 7000),), username="u", password="p@ss", database=3),
        ),
        (
            "rediss://:p@host?ssl_ca_certs=/ca.pem",
            RedisAddress(
                hosts=(HostPort("host", 6379),), tls=True, password="p", tls_files={"ssl_ca_certs": "/ca.pem"}
            ),
        ),
        ("redis://host?db=3", RedisAddress(hosts=(HostPort("host", 6379),), database=3)),
        ("redis://host/?db=3", RedisAddress(hosts=(HostPort("host", 6379),), database=3)),
        ("unix:///run/a%20b.sock?db=2", RedisAddress(socket="/run/a b.sock", database=2)),
        (
            "redis+sentinel://:p@a,b:7/master/1?sentinel_password=s",
            RedisAddress(
                mode="sentinel",
                hosts=(HostPort("a", 26379), HostPort("b", 7)),
                password="p",
                service="master",
                database=1,
                sentinel_password="s",
            ),
        ),
        (
            "rediss+cluster://a:1,b:2",
            RedisAddress(mode="cluster", hosts=(HostPort("a", 1), HostPort("b", 2)), tls=True),
        ),
    ],
)
def test_every_form_of_url_is_parsed(text: str, address: RedisAddress) -> None:
    assert parse_redis_url(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http://host",
        "redis://a,b",
        "redis://host/one",
        "redis://host/1/2",
        "redis://host/1?db=2",
        "redis+cluster://host?db=1",
        "redis://host:port",
        "redis://host?what=1",
        "redis://host?ssl_ca_certs=/ca.pem",
        "redis+sentinel://host",
        "redis+cluster://host/1",
        "unix+cluster:///path",
        "unix://",
        "redis+what://host",
    ],
)
def test_an_invalid_url_is_rejected_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(?!.*(//|host:|a,b|what))"):
        parse_redis_url(text)


def test_the_repr_of_an_address_has_no_passwords() -> None:
    assert "hush" not in repr(parse_redis_url("redis+sentinel://:hush@a/m?sentinel_password=hush"))


@pytest.mark.parametrize(
    ("text", "is_unprotected"),
    [
        ("redis://", False),
        ("redis://127.0.0.1:7", False),
        ("redis://[::1]", False),
        ("unix:///run/a.sock", False),
        ("rediss://host", False),
        ("redis://host", True),
        ("redis://10.0.0.1", True),
        ("redis+cluster://localhost,host", True),
        ("rediss+sentinel://host/m", False),
    ],
)
def test_an_unencrypted_remote_address_is_unprotected(text: str, is_unprotected: bool) -> None:
    assert parse_redis_url(text).is_unprotected is is_unprotected
