"""Canonical forms of the values of IOCs, compared with `ipaddress`, `idna` and RFC 3986."""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

import idna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vsyncd.domains.iocs.records import MAX_VALUE_CHARS, IocType
from vsyncd.domains.iocs.values import (
    CANONICALIZE,
    RULES,
    canonical_domain,
    canonical_email,
    canonical_ipv4,
    canonical_ipv6,
    canonical_url,
    ipv6_text,
)

LABELS = st.text("ab1-A.xn-üß.。", max_size=8) | st.text("ab1-", min_size=60, max_size=65)
NAMES = st.lists(LABELS, max_size=5).map(".".join) | st.text("a1-.", min_size=248, max_size=256) | st.text(max_size=12)
GROUPS = st.integers(0, 0xFFFF) | st.sampled_from([0, 0, 0xFFFF])
ADDRESSES = st.lists(GROUPS, min_size=8, max_size=8).map(
    lambda groups: IPv6Address(b"".join(group.to_bytes(2) for group in groups))
)
URLS = st.builds(
    "{}://{}{}".format,
    st.sampled_from(["http", "HTTPS", "ftp", "x"]),
    st.sampled_from(["a.example", "A.Example:80", "u:p@1.2.3.4", "[2001:DB8::1]:8080", "bücher.example:0443"]),
    st.text("/.?#%aA4zü|\U0001f4a5&=-~:@ \\", max_size=12),
)


def forms(address: IPv6Address) -> list[str]:
    """Returns texts of an address, and of one with a part in IPv4's form."""
    return [str(address), address.exploded, str(address).upper(), f"::ffff:{IPv4Address(int(address) >> 96)}"]


@given(NAMES)
def test_the_fast_path_for_domains_agrees_with_idna(value: str) -> None:
    try:
        name = idna.encode(value, uts46=True, std3_rules=True).decode().removesuffix(".")
    except idna.IDNAError:
        expected = None
    else:
        expected = name if "." in name and not name.rpartition(".")[2].isdigit() else None
    assert canonical_domain(value) == expected


@given(
    st.lists(st.sampled_from("0125999.::"), max_size=15).map("".join)
    | ADDRESSES.map(lambda a: str(IPv4Address(int(a) >> 96)))
)
def test_the_pattern_of_ipv4_agrees_with_ipaddress(value: str) -> None:
    try:
        expected = str(IPv4Address(value))
    except ValueError:
        expected = None
    assert canonical_ipv4(value) == expected


@given(
    ADDRESSES.flatmap(
        lambda a: st.sampled_from([str(a), a.exploded, str(a).upper(), f"::ffff:{IPv4Address(int(a) >> 96)}"])
    )
    | st.text("0f:.1%g", max_size=20)
)
def test_the_conversion_of_ipv6_agrees_with_ipaddress(value: str) -> None:
    try:
        expected = ipv6_text(IPv6Address(value)) if "%" not in value else None
    except ValueError:
        expected = None
    assert canonical_ipv6(value) == expected


@given(st.sampled_from(IocType), st.one_of(NAMES, URLS, st.text(max_size=40), NAMES.map("Info.X@{}".format)))
def test_a_canonical_form_is_stable_and_can_be_stored(kind: IocType, value: str) -> None:
    canonical = CANONICALIZE[kind](value)
    if canonical is not None:
        assert CANONICALIZE[kind](canonical) == canonical
        assert 0 < len(canonical) <= MAX_VALUE_CHARS
        assert canonical.isascii()
        assert canonical.isprintable()


def test_every_type_has_a_rule() -> None:
    assert set(CANONICALIZE) == set(RULES) == set(IocType)


@pytest.mark.parametrize(
    ("canonicalize", "value", "canonical"),
    [
        (canonical_ipv4, "192.0.2.1", "192.0.2.1"),
        (canonical_ipv4, "192.0.2.01", None),
        (canonical_ipv4, "٣.0.2.1", None),
        (canonical_ipv6, "2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
        (canonical_ipv6, "::FFFF:c000:201", "::ffff:192.0.2.1"),
        (canonical_ipv6, "::c000:201", "::c000:201"),
        (canonical_ipv6, "fe80::1%eth0", None),
        (canonical_domain, "Evil.Example.", "evil.example"),
        (canonical_domain, "bücher.example", "xn--bcher-kva.example"),
        (canonical_domain, "XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        (canonical_domain, "evil。example", "evil.example"),
        (canonical_domain, "example", None),
        (canonical_domain, "192.0.2.1", None),
        (canonical_domain, "a_b.example", None),
        (canonical_domain, "a" * 64 + ".example", None),
        (canonical_domain, "a..example", None),
        (canonical_domain, "evil.example\n", None),
        (canonical_domain, "ü" * 100_000, None),
        (canonical_email, "Info@Bücher.Example", "info@xn--bcher-kva.example"),
        (canonical_email, "a.b+c@evil.example", "a.b+c@evil.example"),
        (canonical_email, "a..b@evil.example", None),
        (canonical_email, "ü@evil.example", None),
        (canonical_email, "@evil.example", None),
        (canonical_email, "a" * 65 + "@evil.example", None),
        (canonical_url, "HTTP://Evil.Example:80", "http://evil.example/"),
        (canonical_url, "https://evil.example:0443/a/./b/../%7Ec?", "https://evil.example/a/~c"),
        (canonical_url, "https://evil.example:8443/ü?q=%c3%bc|#top", "https://evil.example:8443/%C3%BC?q=%C3%BC%7C"),
        (canonical_url, "http://a@b:c@[2001:DB8::1]/..", "http://a%40b:c@[2001:db8::1]/"),
        (canonical_url, "http://evil.example/100%", "http://evil.example/100%25"),
        (canonical_url, "http://evil.example/%2e%2E/a", "http://evil.example/a"),
        (canonical_url, "http://192.0.2.1/", "http://192.0.2.1/"),
        (canonical_url, "http://evil.example:65536/", None),
        (canonical_url, "http://evil.example\\@good.example/", None),
        (canonical_url, "http://evil.example/a b", None),
        (canonical_url, "//evil.example/", None),
        (canonical_url, "http:///path", None),
        (canonical_url, "http://evil.example/" + "ü" * 1_000, None),
        (CANONICALIZE[IocType.MD5], "D41D8CD98F00B204E9800998ECF8427E", "d41d8cd98f00b204e9800998ecf8427e"),
        (CANONICALIZE[IocType.SHA1], "0" * 39, None),
        (CANONICALIZE[IocType.SHA256], "0" * 64 + "\n", None),
    ],
)
def test_the_canonical_form_of_a_value(canonicalize: Callable[[str], str | None], value: str, canonical: str) -> None:
    assert canonicalize(value) == canonical
