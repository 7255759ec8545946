"""AUTHZ_FILE: the entry that decides about a principal, and every invalid entry is named."""

import contextlib

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from vsync.access.v1 import access_pb2
from vsyncd.access.keys import parse_keys
from vsyncd.access.policy import parse_policy
from vsyncd.access.roles import required_role
from vsyncd.config import ConfigError
from vsyncd.core.grants import NO_GRANT, Grant, Role

POLICY = b"""
principals:
  - {principal: "spiffe://bank.example/worker", roles: [reader, sync], ispbs: ["10203040", "00000000"], tenant: retail}
  - {principal: "spiffe://bank.example/*", roles: [reader], ispbs: "*"}
  - {principal: "spiffe://*", roles: [auditor], ispbs: "*"}
  - {principal: "dns:*.bank.example", roles: [operator], ispbs: "*"}
"""


@pytest.mark.parametrize(
    ("principal", "pattern"),
    [
        ("spiffe://bank.example/worker", "spiffe://bank.example/worker"),
        ("spiffe://bank.example/worker2", "spiffe://bank.example/*"),
        ("spiffe://bank.example/", "spiffe://bank.example/*"),
        ("spiffe://other.example/x", "spiffe://*"),
        ("dns:*.bank.example", "dns:*.bank.example"),
        ("dns:a.bank.example", None),
        ("uri:spiffe://bank.example/worker", None),
        ("", None),
    ],
)
def test_the_most_specific_entry_decides(principal: str, pattern: str | None) -> None:
    policy = parse_policy(POLICY)
    entry = policy.entry_of(principal)
    assert (entry.pattern if entry else None) == pattern
    assert (policy.grant_of(principal) is NO_GRANT) == (pattern is None)


def test_a_grant_has_roles_participants_and_a_tenant() -> None:
    policy = parse_policy(POLICY)
    participants = frozenset({"10203040", "00000000"})
    assert policy.grant_of("spiffe://bank.example/worker") == Grant(
        frozenset({Role.READER, Role.SYNC}), participants, "retail"
    )
    assert policy.grant_of("spiffe://bank.example/x") == Grant(frozenset({Role.READER}), None)


def entry(**changes: str) -> str:
    fields = {"principal": "key:a", "roles": "[reader]", "ispbs": "'*'"} | changes
    return "principals: [{" + ", ".join(f"{name}: {value}" for name, value in fields.items() if value) + "}]"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "must have the key principals, and no other"),
        ("principals: {}", "principals: must be a list"),
        ("principals: [1]", "principals[0]: must be a mapping"),
        ("principals: [", "invalid YAML: "),
        ("principals: []\nprincipals: []", "invalid YAML: 'principals' occurs twice (line 2, column 1)"),
        ("principals: [{principal: 'key:a', roles: [sync], roles: [reader], ispbs: '*'}]", "'roles' occurs twice"),
        (entry(roles=""), "principals[0]: roles is missing"),
        (entry(rolse="[reader]"), "principals[0]: unknown key 'rolse'"),
        (entry(roles="[readr]"), "principals[0]: roles: unknown role 'readr'"),
        (entry(roles="[public]"), "principals[0]: roles: unknown role 'public'"),
        (entry(roles="[[reader]]"), "principals[0]: roles: unknown role \"['reader']\""),
        (entry(roles="reader"), "principals[0]: roles: must be a list"),
        (entry(roles="[]"), "principals[0]: roles: must be a list"),
        (entry(ispbs="[10203040]"), "principals[0]: ispbs: 10203040 is not an ISPB: 8 digits in quotes"),
        (entry(ispbs="['1020304']"), "principals[0]: ispbs: '1020304' is not an ISPB"),
        (entry(ispbs="['*']"), "principals[0]: ispbs: '*' is not an ISPB"),
        (entry(ispbs="[]"), "principals[0]: ispbs: must be a list of ISPBs"),
        (entry(principal="worker"), "principals[0]: principal: must begin with one of spiffe://"),
        (entry(principal="'*'"), "principals[0]: principal: must begin with one of spiffe://"),
        (entry(principal="7"), "principals[0]: principal: must begin with one of spiffe://"),
        (entry(principal="'dns:Worker'"), "principals[0]: principal: a DNS name must be in lower case"),
        (entry(principal="'spiffe://*/a'"), "principals[0]: principal: `*` is permitted at the end only"),
        (entry(principal=f"'key:{'x' * 200}'"), "principals[0]: principal: longer than 200 characters"),
        (entry(tenant="A b"), "principals[0]: tenant: must be"),
    ],
)
def test_an_invalid_file_names_the_entry(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policy(text.encode())
    assert any(line.startswith(f"AUTHZ_FILE: {problem}") or problem in line for line in caught.value.lines)


def test_every_invalid_entry_is_named() -> None:
    text = "principals:\n" + "".join(
        f"  - {{principal: {name}, roles: [{role}], ispbs: '*'}}\n"
        for name, role in (("a", "reader"), ("'key:a'", "x"), ("'key:b'", "reader"), ("'key:b'", "reader"))
    )
    with pytest.raises(ConfigError) as caught:
        parse_policy(text.encode())
    assert [line.split(":")[1].strip() for line in caught.value.lines] == [
        "principals[0]",
        "principals[1]",
        "principals[3]",
    ]


texts = st.sampled_from(["principals", "principal", "roles", "ispbs", "key:a", "reader", "*", "10203040"])
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), texts, st.dates())
values = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.one_of(texts, scalars), inner)), max_leaves=8
)
entries = st.fixed_dictionaries({"principal": values, "roles": values, "ispbs": values}, optional={"tenant": values})
keys = st.fixed_dictionaries({"name": values, "sha256": values})
documents = st.one_of(
    st.fixed_dictionaries({"principals": st.lists(st.one_of(entries, values))}),
    st.fixed_dictionaries({"keys": st.lists(st.one_of(keys, values))}),
    values,
).map(lambda document: yaml.safe_dump(document).encode())


@pytest.mark.soak
@settings(max_examples=300)
@given(st.one_of(documents, st.binary(), st.text().map(str.encode)))
def test_no_content_of_a_file_raises_another_error(data: bytes) -> None:
    for parse in (parse_policy, parse_keys):
        with contextlib.suppress(ConfigError):
            parse(data)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ("name: a b, sha256: " + "0" * 64, "keys[0]: name: "),
        ("name: a, sha256: " + "A" * 64, "keys[0]: sha256: "),
        ("name: a, sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "keys[0]: sha256: "),
        ("name: a", "keys[0]: sha256 is missing"),
    ],
)
def test_an_invalid_file_of_keys_names_the_entry(fields: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_keys(f"keys: [{{{fields}}}]".encode())
    assert caught.value.lines[0].startswith(f"AUTHN_KEYS_FILE: {problem}")


def test_roles_are_those_of_the_protos() -> None:
    names = {name.removeprefix("ROLE_").lower() for name in access_pb2.Role.keys()}  # noqa: SIM118  no mapping
    assert {role.value for role in Role} == names - {"unspecified"}
    assert required_role("vsync.v1.CidService/GetCid") is Role.READER


@pytest.mark.parametrize("method", ["test.v1.Service/Call", "vsync.v1.CidService/Nothing", ""])
def test_a_method_without_a_role_is_not_registered(method: str) -> None:
    with pytest.raises(LookupError, match="does not declare the role"):
        required_role(method)
