"""What one audit record shows: an allow-list, CloudTrail's forms of identity, texts that any reader can take."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import botocore.session
import msgspec
import pytest
from botocore.model import ServiceModel, Shape

from ebscrypt.config import Settings
from ebscrypt.kms.audit import Trail
from ebscrypt.kms.audit_file import Reader
from ebscrypt.kms.audit_record import ANSWER_MEMBERS, REQUEST_MEMBERS, Exchange, record_of
from tests.unit.kms.calls import CONTEXT, GRANT_ID, NAME, recorded
from tests.unit.kms.scripted import KEY_ARN

GOLDEN = Path(__file__).parents[2] / "vectors" / "audit-v1.jsonl"
INSTANCE = "i-0123456789abcdef0"
TIME = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)


def _model() -> ServiceModel:
    return botocore.session.Session().get_service_model("kms")


def _hidden(shape: Shape) -> bool:
    """Whether a member is bytes, or the model calls it sensitive."""
    return shape.type_name == "blob" or bool(shape.metadata.get("sensitive"))


SECRET_MEMBERS = {
    "CiphertextBlob", "Plaintext", "GrantTokens", "GrantToken", "ImportToken", "EncryptedKeyMaterial", "PublicKey",
    "PrivateKeyPlaintext", "PrivateKeyCiphertextBlob", "CiphertextForRecipient", "Recipient", "Policy", "Message",
    "Mac", "Signature", "SharedSecret", "KeyStorePassword",
}  # fmt: skip


def test_the_allow_list_shows_nothing_secret() -> None:
    """Every name on it is a member of that operation, none is bytes, none is one of the secret ones."""
    model = _model()
    for table, side in ((REQUEST_MEMBERS, "input_shape"), (ANSWER_MEMBERS, "output_shape")):
        for operation, members in table.items():
            shape = getattr(model.operation_model(operation), side)
            for member in members:
                assert member in shape.members, (operation, member)
                assert not _hidden(shape.members[member]), (operation, member)
            assert SECRET_MEMBERS.isdisjoint(members), operation


@pytest.mark.parametrize("operation", _model().operation_names)
def test_no_operation_shows_what_is_secret(operation: str, settings: Settings) -> None:
    """Whatever the operation, known to the tables or not: every secret member of every kind stays out."""
    secret = "this-is-secret"
    filled: dict[str, Any] = dict.fromkeys(SECRET_MEMBERS, secret) | {"CiphertextBlob": secret.encode()}
    exchange = Exchange(operation=operation, parameters=filled, answer=filled)

    assert secret not in json.dumps(record_of(exchange, settings))


def test_nested_members_are_on_a_list_too(settings: Settings) -> None:
    """A structure with members that it should not have shows those that it should."""
    parameters = {
        "KeyId": KEY_ARN,
        "Constraints": {"EncryptionContextSubset": {"aws:ebs:id": "v", "b": b"bytes"}, "Plaintext": "secret"},
        "Operations": ["Decrypt", b"bytes", {"Plaintext": "secret"}],
        "Name": {"Plaintext": "secret"},
    }

    shown = record_of(Exchange(operation="CreateGrant", parameters=parameters), settings)["requestParameters"]

    assert shown["constraints"] == {"encryptionContextSubset": {"aws:ebs:id": "v", "b": "(bytes)"}}
    assert shown["operations"] == ["Decrypt", None, {}]
    assert shown["name"] == {}
    assert "secret" not in json.dumps(shown)


@pytest.mark.parametrize("text", ["x" * 100_000, "\ud800", "\0\x1b[31m\n", "ä€😀"])
def test_any_text_makes_one_short_line(text: str, settings: Settings) -> None:
    """Long texts are cut, and no character breaks the line or the encoding."""
    parameters = {"KeyId": text, "EncryptionContext": {text: text}, "Tags": [{"TagKey": text, "TagValue": text}] * 1000}

    for operation in ("Encrypt", "TagResource"):
        Trail(settings).record(Exchange(operation=operation, parameters=parameters, error_code="X", error_text=text))

    lines = (settings.audit_dir / "kms.jsonl").read_bytes().splitlines()
    assert len(lines) == 2
    assert all(len(line) < 700_000 and json.loads(line)["errorCode"] == "X" for line in lines)


@pytest.mark.parametrize(
    ("principal", "identity"),
    [
        ("arn:aws:iam::111122223333:user/path/u", {"type": "IAMUser", "userName": "u"}),
        ("arn:aws:iam::111122223333:role/r", {"type": "Role", "userName": "r"}),
        ("arn:aws:sts::111122223333:assumed-role/r/s", {"type": "AssumedRole", "principalId": "111122223333:r:s"}),
        ("ec2.eu-central-1.amazonaws.com", {"type": "AWSService", "invokedBy": "ec2.eu-central-1.amazonaws.com"}),
        ("what:ever", {"type": "Unknown", "arn": "what:ever"}),
    ],
)
def test_identities(principal: str, identity: dict[str, str], settings: Settings) -> None:
    """Each kind of principal has CloudTrail's own type."""
    told = record_of(Exchange(operation="Decrypt", parameters={}, principal=principal), settings)["userIdentity"]

    assert told | identity == told


@pytest.mark.parametrize("endpoint", ["embedded", "http://127.0.0.1:9"])
def test_served_requests_are_recorded(endpoint: str, settings: Settings) -> None:
    """What the embedded KMS's server answers has the client's address and program, and what came of it."""
    # Whatever KMS this machine's own commands use, it is the embedded one that is served.
    kms = msgspec.structs.replace(settings.kms, endpoint=endpoint)
    trail = Trail(msgspec.structs.replace(settings, kms=kms))
    asked = {"KeyId": KEY_ARN, "Operations": ["Decrypt"], "Name": NAME, "Plaintext": "secret"}
    answer = {"GrantId": GRANT_ID, "GrantToken": "secret"}

    trail.record_served(
        "TrentService.CreateGrant",
        json.dumps(asked).encode(),
        200,
        json.dumps(answer).encode(),
        request_id="r1",
        source="127.0.0.1",
        agent="aws-cli/2",
    )
    refused = {"__type": "com.amazonaws.kms#DisabledException", "message": f"{KEY_ARN} is disabled."}
    trail.record_served("TrentService.Decrypt", {}, 400, refused, request_id="r2", source="127.0.0.1")
    trail.record_served("nonsense", b"\xff", 500, b"\xff", request_id="r3", source="::1")

    granted, disabled, nonsense = recorded(settings)
    assert [one["userIdentity"]["type"] for one in (granted, disabled, nonsense)] == ["Root"] * 3
    assert (granted["sourceIPAddress"], granted["userAgent"], granted["requestID"]) == ("127.0.0.1", "aws-cli/2", "r1")
    assert granted["responseElements"] == {"grantId": GRANT_ID, "keyId": KEY_ARN}
    assert granted["additionalEventData"] == {}
    assert (disabled["errorCode"], disabled["errorMessage"]) == ("DisabledException", f"{KEY_ARN} is disabled.")
    assert (nonsense["eventName"], nonsense["errorCode"]) == ("nonsense", "Status500")
    assert "secret" not in json.dumps([granted, disabled, nonsense])


def test_the_golden_file(settings: Settings, tmp_path: Path) -> None:
    """Version 1 is read for ever, and what is written today is the same but for what never is twice the same."""
    (tmp_path / "kms.jsonl").write_bytes(GOLDEN.read_bytes())
    exchanges = [
        Exchange(
            operation="CreateGrant",
            parameters={
                "KeyId": KEY_ARN,
                "GranteePrincipal": f"arn:aws:sts::111122223333:assumed-role/aws:ec2-infrastructure/{INSTANCE}",
                "RetiringPrincipal": "ec2.eu-central-1.amazonaws.com",
                "Operations": ["Decrypt"],
                "Constraints": {"EncryptionContextSubset": CONTEXT},
                "Name": NAME,
            },
            answer={"GrantId": GRANT_ID, "GrantToken": "secret"},
            request_id="00000000-0000-0000-0000-000000000001",
            time=TIME,
        ),
        Exchange(
            operation="Decrypt",
            parameters={"CiphertextBlob": b"secret", "EncryptionContext": CONTEXT, "GrantTokens": ["secret"]},
            key=KEY_ARN,
            principal=f"arn:aws:sts::111122223333:assumed-role/aws:ec2-infrastructure/{INSTANCE}",
            request_id="00000000-0000-0000-0000-000000000002",
            error_code="DisabledException",
            error_text=f"{KEY_ARN} is disabled.",
            time=TIME,
        ),
    ]

    with Reader(tmp_path) as reader:
        old = list(reader.read())
    new = [json.loads(msgspec.json.encode(record_of(exchange, settings))) for exchange in exchanges]

    for record in (*old, *new):
        for name in ("eventID", "sourceIPAddress", "additionalEventData"):
            assert record.pop(name)
    assert old == new
    assert b"secret" not in GOLDEN.read_bytes()


def test_the_user_is_the_kernels_word(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asked on this machine is told by user id and process, not by what the environment claims."""
    monkeypatch.setenv("USER", "somebody-else")
    monkeypatch.setenv("SUDO_USER", "somebody-else")

    told = record_of(Exchange(operation="ListKeys", parameters={}), settings)

    assert told["additionalEventData"]["userId"] == os.getuid()
    assert "somebody-else" not in json.dumps(told)


def test_the_record_survives_a_round_trip(settings: Settings) -> None:
    """Times in answers become CloudTrail's; the line is plain JSON to any reader."""
    exchange = Exchange(
        operation="ScheduleKeyDeletion",
        parameters={"KeyId": KEY_ARN, "PendingWindowInDays": 7},
        answer={
            "KeyId": KEY_ARN,
            "DeletionDate": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            "KeyState": "PendingDeletion",
        },
    )

    told = json.loads(msgspec.json.encode(record_of(exchange, settings)))

    assert told["responseElements"] == {
        "keyId": KEY_ARN,
        "deletionDate": "2026-01-02T03:04:05Z",
        "keyState": "PendingDeletion",
    }
