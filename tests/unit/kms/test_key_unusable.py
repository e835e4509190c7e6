"""When the key cannot be used: one typed error that names the key, its state, the cause and the cure, and no doubt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from ebscrypt import errors
from ebscrypt.config import Settings
from ebscrypt.kms.client import KmsClient
from tests.unit.kms.calls import BLOB, CALLS, CONTEXT
from tests.unit.kms.scripted import KEY_ARN, Behaviour, Scenario, answers, refuses, resets

REVOKED = "CustomerKeyHasBeenRevoked"


@dataclass(frozen=True)
class Cause:
    """What KMS says, and what ebscrypt must make of it. ``says`` is in the message, ``cures`` in the hint."""

    behaviour: Behaviour
    kind: type[errors.KmsError]
    api_code: str
    says: str
    cures: tuple[str, ...]
    retryable: bool = False


def _state(code: str, words: str, kind: type[errors.KmsError], *cures: str) -> Cause:
    return Cause(refuses(code, f"{KEY_ARN} is {words}."), kind, REVOKED, f"{KEY_ARN} is {words}", cures)


_GONE = f"Key '{KEY_ARN}' does not exist"
_DENIED = f"User: arn:aws:iam::111122223333:user/u is not authorized to perform: kms:X on resource: {KEY_ARN} because"
_FOREIGN = (
    "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are not "
    "allowed to access."
)
DISABLED, INVALID = errors.KmsKeyDisabled, errors.KmsKeyInvalidState
CAUSES = {
    "disabled": _state("DisabledException", "disabled", DISABLED, f"enable-key --key-id {KEY_ARN}"),
    "pending deletion": _state(
        "KMSInvalidStateException", "pending deletion", INVALID, "cancel-key-deletion", "enable-key", "is lost",
    ),
    "pending deletion, said the other way": _state(
        "DisabledException", "pending deletion", DISABLED, "cancel-key-deletion", "enable-key"
    ),
    "pending replica deletion": _state(
        "KMSInvalidStateException", "pending replica deletion", INVALID, "cancel-key-deletion"
    ),
    "pending import": _state("KMSInvalidStateException", "pending import", INVALID, "import", "the very same"),
    "unavailable": _state("KMSInvalidStateException", "unavailable", INVALID, "custom key store", "connect"),
    "creating": _state("KMSInvalidStateException", "creating", INVALID, "wait", "describe-key"),
    "deleted": Cause(
        refuses("NotFoundException", _GONE), errors.KmsKeyNotFound, REVOKED, _GONE, ("Region", "list-keys"),
    ),
    "access denied": Cause(
        refuses("AccessDeniedException", "denied"), errors.KmsAccessDenied, REVOKED, KEY_ARN,
        ("IAM policy", "key's policy"),
    ),
    "access denied by IAM": Cause(
        refuses("AccessDeniedException", f"{_DENIED} no identity-based policy allows the kms:X action"),
        errors.KmsAccessDenied, REVOKED, "not authorized", ("in the caller's IAM policy",),
    ),
    "access denied by the key": Cause(
        refuses("AccessDeniedException", f"{_DENIED} no resource-based policy allows the kms:X action"),
        errors.KmsAccessDenied, REVOKED, "not authorized", ("in the key's policy",),
    ),
    "access denied by an organisation": Cause(
        refuses("AccessDeniedException", f"{_DENIED[:-8]} with an explicit deny in a service control policy"),
        errors.KmsAccessDenied, REVOKED, "explicit deny", ("the service control policy denies", "take that out"),
    ),
    "wrong account or Region": Cause(
        refuses("AccessDeniedException", _FOREIGN), errors.KmsAccessDenied, REVOKED, KEY_ARN,
        ("another Region or account",),
    ),
    "throttled": Cause(
        refuses("ThrottlingException", "Rate exceeded"), errors.KmsThrottled, "RequestLimitExceeded", "Rate exceeded",
        ("wait", "quotas"), retryable=True,
    ),
    "KMS unreachable": Cause(
        resets, errors.KmsUnreachable, "ServiceUnavailable", "cannot be reached", ("kms.deadline",), retryable=True
    ),
    "KMS failing": Cause(
        refuses("KMSInternalException", "", 500), errors.KmsUnreachable, "ServiceUnavailable", KEY_ARN,
        ("kms.deadline",), retryable=True,
    ),
    "no KMS there": Cause(
        answers(404, b"<html>"), errors.KmsBadAnswer, "InternalError", "status 404", ("kms.endpoint",),
    ),
}  # fmt: skip
USES = ("GenerateDataKeyWithoutPlaintext", "CreateGrant", "Decrypt", "ReEncrypt")
CELLS = [
    pytest.param(use, cause, id=f"{use}-{name}")
    for use in USES
    for name, cause in CAUSES.items()
    if (use, name) != ("CreateGrant", "unavailable")  # works there (facts §5.4)
]


@pytest.mark.parametrize(("use", "cause"), CELLS)
def test_one_error_says_it_all(use: str, cause: Cause, scenario: Scenario) -> None:
    """Type, EC2 code, key ARN, KMS's own words and code, and what to do: of each cause, at each use of the key."""
    kms = scenario.client(cause.behaviour)

    with pytest.raises(errors.KmsError) as caught:
        CALLS[use](kms)

    error = caught.value
    assert type(error) is cause.kind
    assert (error.api_code, error.retryable) == (cause.api_code, cause.retryable)
    assert error.key_arn == KEY_ARN
    assert KEY_ARN in error.message
    assert cause.says in error.message
    assert all(cure in str(error.hint) for cure in cause.cures)
    assert error.message[0].islower() or error.message.startswith("KMS")
    again = errors.from_record(error.record())
    assert isinstance(again, errors.KmsError)
    assert (type(again), vars(again)) == (type(error), vars(error))


@pytest.mark.parametrize(
    "name", [name for name, cause in CAUSES.items() if cause.says.endswith(("disabled", "import"))]
)
def test_the_text_of_kms_is_kept_for_events(name: str, scenario: Scenario) -> None:
    """An event's cause is KMS's own sentence (facts §3.2): it is kept word for word, with its full stop."""
    with pytest.raises(errors.KmsError) as caught:
        CALLS["Decrypt"](scenario.client(CAUSES[name].behaviour))

    assert caught.value.kms_text == f"{CAUSES[name].says}."


def test_a_new_grant_may_not_be_known_everywhere(scenario: Scenario) -> None:
    """Denied without a token, the hint says that a grant takes a while; with one it does not: the token covers it."""
    denied = refuses("AccessDeniedException", _DENIED)

    with pytest.raises(errors.KmsAccessDenied) as without:
        scenario.client(denied).decrypt(BLOB, CONTEXT, expected_key_arn=KEY_ARN)
    with pytest.raises(errors.KmsAccessDenied) as granted:
        CALLS["Decrypt"](scenario.client(denied))

    assert "may not be known everywhere yet" in str(without.value.hint)
    assert "may not be known everywhere yet" not in str(granted.value.hint)


def _embedded_cause(kms: KmsClient, key: str, how: str) -> None:
    """Bring a key of the embedded KMS into a state."""
    if how != "pending import":
        kms.call({"disabled": "DisableKey", "pending deletion": "ScheduleKeyDeletion"}[how], KeyId=key)


@pytest.mark.parametrize("how", ["disabled", "pending deletion", "pending import"])
@pytest.mark.parametrize("use", ["GenerateDataKeyWithoutPlaintext", "CreateGrant"])
def test_the_embedded_kms_says_the_same(use: str, how: str, settings: Settings) -> None:
    """Its states give the same errors as the texts that are scripted above."""
    kms = KmsClient(settings)
    external = {"Origin": "EXTERNAL"} if how == "pending import" else {}
    key = kms.call("CreateKey", **external)["KeyMetadata"]["Arn"]
    _embedded_cause(kms, key, how)

    uses: dict[str, Callable[[], object]] = {
        "CreateGrant": lambda: kms.create_grant(key, CONTEXT, name="n"),
        "GenerateDataKeyWithoutPlaintext": lambda: kms.generate_data_key_without_plaintext(key, CONTEXT),
    }

    with pytest.raises(errors.KmsKeyUnusable) as caught:
        uses[use]()

    assert caught.value.kms_text == f"{key} is {how}."
    assert caught.value.api_code == REVOKED
