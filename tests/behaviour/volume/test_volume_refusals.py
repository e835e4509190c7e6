"""Keys that do not open a volume, at the command line: each a clear error, and nothing changed.

Keys in a state that forbids their use are in test_volume_keys.py.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ebscrypt import config
from ebscrypt.kms.client import KmsClient
from tests.behaviour.volume.place import Place
from tests.behaviour.volume.refusal import attach_is_refused, events, header_of, rewrite_token

MIB = 1 << 20


def test_a_wrapped_key_of_another_context(place: Place) -> None:
    """Two volumes' wrapped keys exchanged: KMS refuses, for the context is the other's."""
    first, second = (place.do("create", "--size", "8M") for _ in range(2))
    other = header_of(place.show(second)["Backing"]).token()
    rewrite_token(place.show(first)["Backing"], wrapped_key=other.wrapped_key)

    said = attach_is_refused(place, first)

    assert "wrong encryption context" in said
    assert "ebscrypt check" in said


def test_a_context_that_was_changed(place: Place, volume_id: str) -> None:
    """The context in the header is not this volume's: refused before KMS is asked, with grants or without."""
    rewrite_token(place.show(volume_id)["Backing"], encryption_context={"aws:ebs:id": "vol-00000000000000000"})

    for grants in ("auto", "never"):
        said = attach_is_refused(place, volume_id, EBSCRYPT_KMS_GRANTS=grants)
        assert f"the encryption context in the header of volume {volume_id} is not the volume's own" in said
        assert "luksHeaderRestore" in said


def test_a_key_that_is_not_the_volumes(place: Place, volume_id: str) -> None:
    """KMS unwraps it without complaint, but it does not match the digest of the first attachment: not served."""
    place.do("attach", volume_id, "--export", "socket")
    place.do("detach", volume_id)
    backing = place.show(volume_id)["Backing"]
    token = header_of(backing).token()
    kms = KmsClient(config.load({"EBSCRYPT_STATE_DIR": str(place.directory / "s"), "EBSCRYPT_CONFIG": os.devnull}))
    other = kms.generate_data_key_without_plaintext(token.kms_key_arn, token.encryption_context)
    rewrite_token(backing, wrapped_key=other.blob)

    said = attach_is_refused(place, volume_id)

    assert "KMS unwrapped a data key that is not" in said
    assert "tampered with" in said


def test_a_kms_that_is_away(place: Place, volume_id: str) -> None:
    """Nobody listens there: refused within the deadline, by attach and by create."""
    away = {"EBSCRYPT_KMS": "http://127.0.0.1:1", "EBSCRYPT_KMS_DEADLINE": "2", "EBSCRYPT_KMS_TIMEOUT": "1"}
    began = time.monotonic()

    assert "cannot be reached" in attach_is_refused(place, volume_id, **away)
    assert "cannot be reached" in place.refused("create", "--size", "8M", **away)

    assert time.monotonic() - began < 20
    assert events(place)[-1]["detail"]["result"] == "failed"


@contextmanager
def silent_server() -> Iterator[str]:
    """Takes connections and never answers; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    taken.append(listener.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in taken:
                connection.close()


def test_a_kms_that_is_slow(place: Place, volume_id: str) -> None:
    """It takes the connection and says nothing: the deadline holds, and the error says what happened."""
    with silent_server() as url:
        slow = {"EBSCRYPT_KMS": url, "EBSCRYPT_KMS_DEADLINE": "2", "EBSCRYPT_KMS_TIMEOUT": "1"}
        began = time.monotonic()

        said = attach_is_refused(place, volume_id, **slow)

        assert time.monotonic() - began < 20
    assert "did not answer in time" in said or "within 2 s" in said
