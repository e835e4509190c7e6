"""`ebscrypt kms serve` driven by clients that nobody here wrote: boto3 itself, the aws command, and hostile sockets."""

from __future__ import annotations

import base64
import concurrent.futures
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError

from ebscrypt import errors
from ebscrypt.kms.embedded.http import CONTENT_TYPE, LARGEST_BODY, NOTICE, serve
from tests.contracts.kms_implementations import SERVE, serving, settings_at

CONTEXT = {"aws:ebs:id": "vol-0123456789abcdef0"}


def test_boto3_life_of_a_key(boto: Any) -> None:
    """boto3 makes a key, wraps and unwraps, disables, enables, schedules, cancels, lists, and gets its own types."""
    key = boto.create_key(Description="by boto3")["KeyMetadata"]
    boto.create_alias(AliasName=f"alias/{key['KeyId']}", TargetKeyId=key["KeyId"])

    made = boto.generate_data_key(KeyId=f"alias/{key['KeyId']}", NumberOfBytes=64, EncryptionContext=CONTEXT)
    opened = boto.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext=CONTEXT)

    assert opened["Plaintext"] == made["Plaintext"]
    assert (opened["KeyId"], opened["KeyMaterialId"]) == (key["Arn"], key["CurrentKeyMaterialId"])
    assert key["CreationDate"].tzinfo is not None
    boto.disable_key(KeyId=key["KeyId"])
    with pytest.raises(boto.exceptions.DisabledException, match="is disabled"):
        boto.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext=CONTEXT)
    boto.enable_key(KeyId=key["KeyId"])
    boto.schedule_key_deletion(KeyId=key["KeyId"], PendingWindowInDays=7)
    with pytest.raises(boto.exceptions.KMSInvalidStateException):
        boto.encrypt(KeyId=key["KeyId"], Plaintext=b"x")
    boto.cancel_key_deletion(KeyId=key["KeyId"])
    with pytest.raises(boto.exceptions.InvalidCiphertextException):
        boto.decrypt(CiphertextBlob=b"garbage")
    listed = [entry["KeyId"] for page in boto.get_paginator("list_keys").paginate() for entry in page["Keys"]]
    assert key["KeyId"] in listed


def test_boto3_refusals_carry_a_request_id(boto: Any) -> None:
    """An error has type, text, status 400 and a request id, as boto3 shows them."""
    with pytest.raises(ClientError) as caught:
        boto.describe_key(KeyId="alias/nobody")

    response = caught.value.response
    assert response["Error"]["Code"] == "NotFoundException"
    assert response["Error"]["Message"].endswith("alias/nobody is not found.")
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert len(response["ResponseMetadata"]["RequestId"]) == 36


@pytest.mark.slow
def test_aws_command(aws: Callable[..., Any], tmp_path: Path) -> None:
    """The aws command goes the whole way: key, alias, data key, decrypt, states, errors."""
    key = aws("create-key", "--description", "by the aws command")["KeyMetadata"]["Arn"]
    alias = f"alias/cli-{key[-12:]}"
    aws("create-alias", "--alias-name", alias, "--target-key-id", key)
    made = aws(
        "generate-data-key-without-plaintext", "--key-id", alias,
        "--number-of-bytes", "64", "--encryption-context", json.dumps(CONTEXT),
    )  # fmt: skip
    blob = tmp_path / "blob"
    blob.write_bytes(base64.b64decode(made["CiphertextBlob"]))
    decrypt = ("decrypt", "--ciphertext-blob", f"fileb://{blob}", "--encryption-context")

    opened = aws(*decrypt, json.dumps(CONTEXT))

    assert (made["KeyId"], opened["KeyId"]) == (key, key)
    assert len(base64.b64decode(opened["Plaintext"])) == 64
    assert "InvalidCiphertextException" in aws(*decrypt, '{"aws:ebs:id":"vol-x"}', fails=True)
    aws("disable-key", "--key-id", key)
    assert f"(DisabledException) when calling the Decrypt operation: {key} is disabled." in aws(
        *decrypt, json.dumps(CONTEXT), fails=True
    )
    assert aws("describe-key", "--key-id", alias)["KeyMetadata"]["KeyState"] == "Disabled"
    assert aws("schedule-key-deletion", "--key-id", key)["KeyState"] == "PendingDeletion"
    assert alias in {entry["AliasName"] for entry in aws("list-aliases", "--key-id", key)["Aliases"]}


def test_many_clients_at_once(boto: Any) -> None:
    """Sixteen clients at once each get their own answers."""
    key = boto.create_key()["KeyMetadata"]["Arn"]

    def work(number: int) -> bool:
        context = {"aws:ebs:id": f"vol-{number:017x}"}
        made = boto.generate_data_key(KeyId=key, NumberOfBytes=64, EncryptionContext=context)
        opened = boto.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext=context)
        return bool(opened["Plaintext"] == made["Plaintext"])

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(100)))


def ask(url: str, body: bytes, method: str = "POST", path: str = "/", **headers: str) -> tuple[int, bytes]:
    """One plain HTTP request."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    named = {"Content-Type": CONTENT_TYPE, "X-Amz-Target": "TrentService.ListKeys"}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("headers", "status", "kind"),
    [
        ({"X_Amz_Target": "TrentService.FlyToTheMoon"}, 400, "UnknownOperationException"),
        ({"X_Amz_Target": "DynamoDB.ListKeys"}, 400, "UnknownOperationException"),
        ({"X_Amz_Target": ""}, 400, "UnknownOperationException"),
        ({"Content_Type": "text/plain"}, 400, "SerializationException"),
        ({"Content_Type": "application/json"}, 400, "SerializationException"),
        ({"Host": "evil.example.com"}, 400, "AccessDeniedException"),
        ({"Host": "127.0.0.1.evil.example.com:80"}, 400, "AccessDeniedException"),
    ],
)
def test_requests_that_are_not_kms_clients(kms_server: str, headers: dict[str, str], status: int, kind: str) -> None:
    """Unknown targets, a web page's content types and foreign Host headers are refused in KMS's own form."""
    answered, body = ask(kms_server, b"{}", **headers)

    assert (answered, json.loads(body)["__type"]) == (status, kind)


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/", 405), ("OPTIONS", "/", 405), ("POST", "/x", 404)])
def test_other_doors_are_closed(kms_server: str, method: str, path: str, status: int) -> None:
    """There is POST / and nothing else; a browser's preflight gets no leave."""
    assert ask(kms_server, b"", method, path)[0] == status


def test_large_bodies(kms_server: str) -> None:
    """A body over the limit is refused with 413 while it arrives, and the server goes on."""
    status, body = ask(kms_server, b" " * (LARGEST_BODY + 1))

    assert (status, json.loads(body)["__type"]) == (413, "RequestTooLargeException")
    assert ask(kms_server, b"{}")[0] == 200


def test_clients_that_give_up(kms_server: str) -> None:
    """Connections that send half a request, or nothing, or nonsense, and vanish, disturb nobody."""
    address = (urlsplit(kms_server).hostname, urlsplit(kms_server).port)
    head = f"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {CONTENT_TYPE}\r\n".encode()

    for sent in (b"", b"\x00" * 1000, head, head + b"Content-Length: 100\r\n\r\n{", b"GET " + b"x" * 100_000):
        with socket.create_connection(address, timeout=30) as connection:
            connection.sendall(sent)

    assert ask(kms_server, b"{}")[0] == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", ""])  # noqa: S104 - refused
def test_other_addresses_are_refused(host: str, tmp_path: Path) -> None:
    """The server, which verifies no signatures, binds to nothing but this machine's own addresses."""
    with pytest.raises(errors.InvalidParameter, match="signatures"):
        serve(settings_at(tmp_path, "embedded"), host, 0)


def test_taken_port(kms_server: str, tmp_path: Path) -> None:
    """A port that is taken is an error that names it, and how to get another."""
    port = urlsplit(kms_server).port
    assert port is not None

    with pytest.raises(errors.NotPermitted, match=str(port)) as caught:
        serve(settings_at(tmp_path, "embedded"), "127.0.0.1", port)

    assert "--port 0" in str(caught.value.hint)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_told(number: int, tmp_path: Path) -> None:
    """SIGTERM and SIGINT end the server in order: status 0, the store closed; all it said was its one warning."""
    environment = os.environ | {"EBSCRYPT_STATE_DIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", SERVE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert ask(process.stdout.readline().strip(), b"{}")[0] == 200

        process.send_signal(number)
        _, said = process.communicate(timeout=60)

    assert (process.returncode, said) == (0, f"{NOTICE}\n")
    assert sorted(path.name for path in (tmp_path / "kms").iterdir()) == ["README", "keys.db", "root.key"]


def test_ipv6(tmp_path: Path) -> None:
    """The server can be had on ::1."""
    with serving(SERVE.replace("127.0.0.1", "::1"), tmp_path) as url:
        assert url.startswith("http://[::1]:")
        assert ask(url, b"{}")[0] == 200


def test_store_trouble_is_not_shown_to_clients(tmp_path: Path) -> None:
    """When the store fails, clients get an internal error without a path; the reason goes to the log."""
    with serving(SERVE, tmp_path) as url:
        assert ask(url, b"{}")[0] == 200
        for name in ("keys.db", "keys.db-wal", "keys.db-shm"):
            (tmp_path / "kms" / name).write_bytes(b"garbage" * 10_000)

        status, body = ask(url, b"{}")

    assert (status, json.loads(body)["__type"]) == (500, "KMSInternalException")
    assert str(tmp_path) not in body.decode()
