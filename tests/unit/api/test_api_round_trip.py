"""Requests as botocore writes them, read; answers written, as botocore reads them: each operation of the models."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module
from random import Random
from typing import Any
from urllib.parse import urlencode

import botocore.session
import pytest
from botocore.awsrequest import HeadersDict
from botocore.model import OperationModel, ServiceModel, Shape
from botocore.parsers import create_parser
from botocore.serialize import create_serializer

from ebscrypt.api import services
from ebscrypt.api.ebs import OPERATIONS as EBS
from ebscrypt.api.errors import ApiError
from ebscrypt.api.protocol import forms, rest, xml
from ebscrypt.api.protocol.http import HttpRequest
from ebscrypt.api.protocol.service import FormService, RestService

MODELS: dict[str, ServiceModel] = {
    name: botocore.session.Session().get_service_model(name) for name in ("ec2", "sts", "cloudformation", "ebs")
}
LONGEST = "Volume", "Snapshot", "Tags", "Encryption", "EbsDefault", "Regions", "Zones", "DescribeInstances"
ACTIONS = [
    (service, name)
    for service, model in MODELS.items()
    for name in sorted(model.operation_names)
    if service != "ec2" or any(part in name for part in LONGEST)
]
TEXTS = "plain", "", " spaces ", "a&b<c>\"'", "ä€𝄞", "line\r\nline\ttab", "50%+1=x;y", "]]>"


def seeded(name: str) -> Random:
    """The same values each time for one operation."""
    return Random(name)  # noqa: S311 - no secret is made of it


def sample(shape: Shape, rng: Random, depth: int = 0) -> Any:
    """A value of the shape, deep enough to have every kind of member in it."""
    kind: str = shape.type_name
    if kind == "structure":
        members = shape.members.items()  # type: ignore[attr-defined]  # by its type name
        return {name: sample(member, rng, depth + 1) for name, member in members if depth < 5 or not _nested(member)}
    if kind == "list":
        count = rng.randint(1, 12 if depth < 2 else 2)  # more than nine: places are numbers, not text
        return [sample(shape.member, rng, depth + 1) for _ in range(count)]  # type: ignore[attr-defined]
    if kind == "map":
        return {f"k{n}": sample(shape.value, rng, depth + 1) for n in range(rng.randint(1, 3))}  # type: ignore[attr-defined]
    scalars: dict[str, Callable[[], Any]] = {
        "string": lambda: rng.choice(TEXTS),
        "boolean": lambda: rng.random() < 0.5,
        "integer": lambda: rng.choice([0, 1, -1, 2**31 - 1, -(2**31)]),
        "long": lambda: rng.choice([0, 2**63 - 1, -(2**63)]),
        "float": lambda: rng.choice([0.5, -2.25]),
        "double": lambda: rng.choice([1e300, -0.125]),
        "timestamp": lambda: datetime(rng.randint(1971, 9000), 2, 28, 23, 59, 58, tzinfo=UTC),
        "blob": lambda: rng.randbytes(rng.randint(0, 40)),
    }
    return scalars[kind]()


def _nested(shape: Shape) -> bool:
    return shape.type_name in {"structure", "list", "map"}


def without_nothing(value: Any) -> Any:
    """A value without members that have nothing in them: forms and XML cannot tell those from absent ones."""
    if isinstance(value, dict):
        kept = {name: without_nothing(item) for name, item in value.items()}
        return {name: item for name, item in kept.items() if item not in ({}, [], None)}
    return [without_nothing(item) for item in value] if isinstance(value, list) else value


def output_of(operation: OperationModel) -> Any:
    """The shape of what an operation answers; botocore's own types leave open whether there is one."""
    return operation.output_shape


def parsed(operation: OperationModel, status: int, headers: dict[str, str], body: Any) -> dict[str, Any]:
    """What a client makes of an answer."""
    parser = create_parser(str(operation.service_model.metadata["protocol"]))
    answer: dict[str, Any] = parser.parse(
        {"status_code": status, "headers": HeadersDict(headers), "body": body},
        output_of(operation),
    )
    return answer


@pytest.mark.parametrize(("service", "action"), [pair for pair in ACTIONS if pair[0] != "ebs"])
def test_a_form_is_read_as_it_was_written(service: str, action: str) -> None:
    """Parameters that botocore's serializer put into a form come out the same."""
    operation = MODELS[service].operation_model(action)
    if operation.input_shape is None:
        assert forms.read_query(None, forms.parse(f"Action={action}")) == {}
        return
    values = sample(operation.input_shape, seeded(action))
    sent = create_serializer(str(MODELS[service].metadata["protocol"]), include_validation=False)
    form = urlencode(sent.serialize_to_request(values, operation)["body"])
    read = forms.read_ec2 if service == "ec2" else forms.read_query
    assert without_nothing(read(operation.input_shape, forms.parse(form))) == without_nothing(values)


@pytest.mark.parametrize(("service", "action"), [pair for pair in ACTIONS if pair[0] != "ebs"])
def test_an_answer_in_xml_is_read_as_it_was_written(service: str, action: str) -> None:
    """Answers come out of botocore's parser the same, and the request id with them."""
    operation = MODELS[service].operation_model(action)
    values = sample(operation.output_shape, seeded(action)) if operation.output_shape else {}
    write = xml.ec2_answer if service == "ec2" else xml.query_answer
    answer = parsed(operation, 200, {}, write(operation, values, "an-id").encode())
    assert answer.pop("ResponseMetadata")["RequestId"] == "an-id"
    assert without_nothing(answer) == without_nothing(values)


@pytest.mark.parametrize("action", sorted(MODELS["ebs"].operation_names))
def test_a_rest_request_is_read_as_it_was_written(action: str) -> None:
    """Parameters that botocore put into path, query string, headers and body come out the same."""
    operation = MODELS["ebs"].operation_model(action)
    token = "ab+/=="
    values: dict[str, Any] = {
        name: {
            "SnapshotId": "snap-0123456789abcdef0",
            "FirstSnapshotId": "snap-0123456789abcdef1",
            "SecondSnapshotId": "snap-0123456789abcdef2",
            "ParentSnapshotId": "snap-0123456789abcdef3",
            "BlockToken": token,
            "NextToken": token,
            "BlockData": bytes(range(256)),
            "Checksum": "A" * 43 + "=",
            "ChecksumAlgorithm": "SHA256",
            "ChecksumAggregationMethod": "LINEAR",
            "KmsKeyArn": "arn:aws:kms:us-east-1:000000000000:key/x",
            "Description": "ä <b>",
            "Tags": [{"Key": "a b", "Value": "ü"}],
            "ClientToken": "once",
            "Encrypted": True,
            "MaxResults": 100,
            "VolumeSize": 3,
            "Timeout": 10,
        }.get(name, 7)
        for name in operation.input_shape.members  # type: ignore[union-attr]  # each has parameters
    }
    sent = create_serializer("rest-json").serialize_to_request(values, operation)
    request = HttpRequest(
        method=sent["method"],
        path=sent["url_path"],
        query=urlencode(sent["query_string"]),
        headers={name.lower(): str(value) for name, value in sent["headers"].items()},
        body=sent["body"] if isinstance(sent["body"], bytes) else sent["body"].encode(),
    )
    found = rest.find(MODELS["ebs"], request)
    assert found is not None
    assert found[0].name == action
    assert rest.read(operation, request, found[1]) == values


@pytest.mark.parametrize("action", sorted(MODELS["ebs"].operation_names))
def test_a_rest_answer_is_read_as_it_was_written(action: str) -> None:
    """Answers in headers, JSON and raw bodies come out of botocore's parser the same."""
    operation = MODELS["ebs"].operation_model(action)
    shapes = output_of(operation).members
    values = sample(output_of(operation), seeded(action))
    in_headers = {name for name, shape in shapes.items() if "location" in shape.serialization}
    values |= {name: "sha" for name in in_headers if isinstance(values[name], str)}
    for name, shape in shapes.items():
        if shape.type_name == "timestamp":
            values[name] = datetime(2030, 1, 1, tzinfo=UTC)
    answer = rest.answer(operation, values)
    # A client reads a block as a stream; botocore's parser would make text of bytes.
    body = io.BytesIO(answer.body) if "BlockData" in values else answer.body
    read = parsed(operation, answer.status, answer.headers, body)
    read.pop("ResponseMetadata")
    if "BlockData" in read:
        read["BlockData"] = read["BlockData"].read()
    assert read == values


@pytest.mark.parametrize("service", ["ec2", "sts", "cloudformation", "ebs"])
def test_an_error_is_read_as_it_was_written(service: str) -> None:
    """Code, message and status of an error reach the client in the form of each service."""
    model = MODELS[service]
    kind = RestService if service == "ebs" else FormService
    text = "<no> & 'ä'"
    answer = kind(service, model, {}).error(ApiError("SomeException", text, status=404), "an-id")
    read = create_parser(str(model.metadata["protocol"])).parse(
        {
            "status_code": answer.status,
            "headers": HeadersDict(answer.headers),
            "body": answer.body,
        },
        output_of(model.operation_model(next(iter(model.operation_names)))),
    )
    assert (read["Error"]["Code"], read["Error"]["Message"]) == ("SomeException", text)
    assert read["ResponseMetadata"]["HTTPStatusCode"] == 404
    assert read["ResponseMetadata"]["RequestId"] == "an-id"


def test_every_operation_is_one_of_its_model() -> None:
    """No table has a name that the service does not have."""
    for name, module in (services.FORM_SERVICES | services.REST_SERVICES).items():
        assert set(import_module(module).OPERATIONS) <= set(MODELS[name].operation_names)
    assert set(EBS) == set(MODELS["ebs"].operation_names)
