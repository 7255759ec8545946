"""Parsing of hosts and ports."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vsyncd.config.endpoints import HostPort, parse_grpc_dependencies, parse_host_port, parse_hosts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost:1", HostPort("localhost", 1)),
        (" db.example.com:65535 ", HostPort("db.example.com", 65535)),
        ("[::1]:0", HostPort("::1", 0)),
        ("[fe80::1%eth0]", HostPort("fe80::1%eth0", 7)),
        ("2001:db8::1", HostPort("2001:db8::1", 7)),
        ("localhost", HostPort("localhost", 7)),
        ("localhost:", HostPort("localhost", 7)),
        ("/run/my postgres", HostPort("/run/my postgres", 7)),
        ("/run/a:b", HostPort("/run/a:b", 7)),
        ("/run/postgres:5433", HostPort("/run/postgres", 5433)),
    ],
)
def test_hosts_and_ports_are_parsed(text: str, expected: HostPort) -> None:
    assert parse_host_port(text, default_port=7) == expected


@pytest.mark.parametrize(
    "text",
    ["", ":", ":1", "a:b", "a:65536", "a:-1", "a:+1", "a:1_0", "a:\u0661", "a b:1", "[::1:1", "a]:1", "http://a:1"],
)
def test_an_invalid_host_or_port_is_rejected_without_repeating_the_text(text: str) -> None:
    with pytest.raises(ValueError, match=r"the host is missing|the port is not a number"):
        parse_host_port(text, default_port=7)


def test_the_port_is_required_without_a_default() -> None:
    with pytest.raises(ValueError, match="port"):
        parse_host_port("localhost")


@given(
    st.lists(st.tuples(st.ip_addresses().map(str) | st.from_regex(r"\A[a-z][a-z0-9.-]{0,20}\Z"), st.integers(0, 65535)))
)
def test_formatted_hosts_are_parsed_again(hosts: list[tuple[str, int]]) -> None:
    written = [HostPort(host, port) for host, port in hosts]
    assert parse_hosts(",".join(map(str, written))) == tuple(written)


@pytest.mark.parametrize(
    "text", ["a", "=a:1", "a=b", "a=b:1,a=c:1", "a b=c:1", "a=b:1,", "postgresql-primary=b:1", "redis-cache=b:1"]
)
def test_a_grpc_dependency_needs_a_unique_name_and_an_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"name|host|port"):
        parse_grpc_dependencies(text)
