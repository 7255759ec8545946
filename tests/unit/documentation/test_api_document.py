"""docs/api.md has a valid example of every method and a row for every reason."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import ServiceDescriptor
from vsyncd.domains.registry import settings_class

from tests.harness.domains import domain_methods, domain_services

ROOT = Path(__file__).parents[3]
DOCUMENT = "".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))
_EXAMPLE = re.compile(r"^call (\w+)/(\w+) (?:'(.*?)'|\"\$C\")$", re.MULTILINE | re.DOTALL)
_EXECUTED = re.compile(r"^\$ grpcurl -plaintext -d '(.*?)' localhost:50051 [\w.]+\.(\w+)/(\w+)$", re.MULTILINE)
_REASON = re.compile(r"[A-Z]+(?:_[A-Z]+)+").fullmatch
# grpcurl expects a field mask as an object, protobuf's JSON as a string.
_MASK = re.compile(r'{"paths":\[([^]]*)\]}')
# Reasons that only stop the start of the server, and a variable of gRPC.
_NO_ANSWER = {"GRPC_ENABLE_FORK_SUPPORT"}


def services() -> dict[str, ServiceDescriptor]:
    return {service.name: service for service in domain_services()}


def examples() -> list[tuple[str, str, str]]:
    """Returns service, method and request of each example, with shell variables replaced."""
    text = re.sub(r"'\$[RBT]'", "01020304-0506-0708-090a-0b0c0d0e0f10", DOCUMENT)
    text = _MASK.sub(
        lambda found: '"' + found[1].replace('"', "").replace("account_number", "accountNumber") + '"', text
    )
    found = [(service, method, request or '{"cid":"..."}') for service, method, request in _EXAMPLE.findall(text)]
    executed = [(service, method, request) for request, service, method in _EXECUTED.findall(text)]
    return [*found, *(example for example in executed if example[0] in services())]


@pytest.mark.parametrize(("service", "method", "request_"), examples())
def test_an_example_is_a_valid_request_of_its_method(service: str, method: str, request_: str) -> None:
    message = message_factory.GetMessageClass(services()[service].methods_by_name[method].input_type)()
    json_format.Parse(request_, message)


def test_every_method_has_an_example() -> None:
    streams = {("CidService", "ImportCids"), ("ReconciliationService", "DiffCidSet")}
    shown = {(service, method) for service, method, _ in examples()} | streams
    assert {(method.containing_service.name, method.name) for method in domain_methods()} == shown


def test_every_reason_of_the_server_is_explained() -> None:
    explained = set(re.findall(r"[A-Z]+(?:_[A-Z]+)+", DOCUMENT)) | {"INTERNAL"}
    raised = {reason for path in (ROOT / "server").rglob("*.py") for reason in _reasons(ast.parse(path.read_text()))}
    assert {"CID_NOT_FOUND", "REQUEST_ID_REUSED", "POOL_EXHAUSTED"} < raised
    settings = {name.upper() for name in settings_class().model_fields}
    variables = {reason for reason in raised if reason.startswith("OTEL_")} | settings
    assert raised - _NO_ANSWER - variables - explained == set()


def _reasons(tree: ast.AST) -> Iterator[str]:
    """Yields the reasons in the code: the first argument of an error, or reason=..."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        given = [*call.args[:1], *(keyword.value for keyword in call.keywords if keyword.arg == "reason")]
        for value in given:
            if isinstance(value, ast.Constant) and isinstance(value.value, str) and _REASON(value.value):
                yield value.value
