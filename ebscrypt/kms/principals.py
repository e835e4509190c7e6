"""Who may use a key under a grant, and who may end the grant: the principals of facts §1.3 b.

EBS makes one grant for each attachment. Its grantee is the infrastructure role of the instance, which nobody can
assume, and EC2 retires it. The embedded KMS knows the same two. On AWS no machine outside of EC2 may be either: there
the settings name them, or the caller is both: then the grant shows each attachment in ListGrants and in CloudTrail, but
protects nothing that the caller's own permissions do not.

Nothing of AWS's is imported before STS has to be asked, so that the daemon may import this.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from ebscrypt.errors import KmsBadAnswer

if TYPE_CHECKING:
    from ebscrypt.config import Settings
    from ebscrypt.kms.failures import Failure

INFRASTRUCTURE_ROLE: Final = "aws:ec2-infrastructure"
"""The role as which EBS decrypts (facts §1.3 b)."""
_APPLICATION: Final = b"ebscrypt: the instance id of this machine"
_MACHINE_ID: Final = Path("/etc/machine-id")
_ASSUMED_ROLE: Final = re.compile(r"arn:(aws[a-z-]*):sts::(\d{12}):assumed-role/([^/]+)/.+")
_SET_THEM: Final = "set kms.grantee and kms.retiring_principal, or kms.grants = never"


class Parties(NamedTuple):
    """The two principals of a grant."""

    grantee: str
    retiring: str


def wants_grants(settings: Settings) -> bool:
    """Whether each attachment gets a grant of its own: ``kms.grants``."""
    kms = settings.kms
    return kms.grants == "always" or (kms.grants == "auto" and (kms.endpoint == "embedded" or bool(kms.grantee)))


def parties(settings: Settings) -> Parties:
    """Grantee and retiring principal of the grants that this machine makes; asks STS at most once.

    Raises what asking STS raises (see `grantee`), where it has to be asked.
    """
    kms = settings.kms
    if kms.endpoint == "embedded":
        return Parties(kms.grantee or _infrastructure(settings), kms.retiring_principal or _ec2(settings))
    if kms.grantee and kms.retiring_principal:
        return Parties(kms.grantee, kms.retiring_principal)
    # Left out, a grant could outlive its attachment for ever.
    who = caller(settings)
    return Parties(kms.grantee or who, kms.retiring_principal or who)


def grantee(settings: Settings) -> str:
    """Who may Decrypt under a grant: ``kms.grantee``, or this machine's own principal.

    That is the embedded KMS's infrastructure role, or the caller as AWS STS tells it. Raises `KmsAccessDenied`,
    `KmsUnreachable` or `KmsBadAnswer` when STS does not tell.
    """
    return settings.kms.grantee or parties(settings).grantee


def retiring_principal(settings: Settings) -> str:
    """Who may retire a grant: ``kms.retiring_principal``, or EC2 in the embedded KMS, else the caller."""
    return settings.kms.retiring_principal or parties(settings).retiring


def _infrastructure(settings: Settings) -> str:
    return f"arn:aws:sts::{settings.kms.account}:assumed-role/{INFRASTRUCTURE_ROLE}/{instance_id()}"


def _ec2(settings: Settings) -> str:
    return f"ec2.{settings.kms.region}.amazonaws.com"


@functools.cache
def instance_id() -> str:
    """This machine's instance id, ``i-`` and 17 hexadecimal digits: the same as long as its machine id is.

    Made from /etc/machine-id as machine-id(5) wants it, by HMAC-SHA256, so that it does not disclose that id. A machine
    without one, such as a bare container, is known by its host name.
    """
    try:
        machine = _MACHINE_ID.read_bytes().strip()
    except OSError:
        machine = b""
    if not re.fullmatch(rb"[0-9a-f]{32}", machine):
        machine = os.fsencode(os.uname().nodename)
    return f"i-{hmac.new(machine, _APPLICATION, hashlib.sha256).hexdigest()[:17]}"


def as_principal(arn: str) -> str:
    """The ARN to name in a grant for a caller: for a session of an assumed role the role, since sessions end.

    STS tells no path of a role, so a role that has one must be named by the settings.
    """
    if match := _ASSUMED_ROLE.fullmatch(arn):
        partition, account, role = match.groups()
        return f"arn:{partition}:iam::{account}:role/{role}"
    return arn


def caller(settings: Settings) -> str:
    """Who AWS takes this process for, with the deadline and the retries that KMS has."""
    from ebscrypt.kms import endpoint, failures, retry  # noqa: PLC0415 - boto3 is slow to import

    kms = settings.kms
    asked = failures.Call(
        operation="GetCallerIdentity", key=None, endpoint=kms.endpoint, region=kms.region, service="STS"
    )

    def attempt(seconds: float) -> str | Failure:
        try:
            return retry.within(seconds, lambda: str(endpoint.connect_sts(settings).get_caller_identity().get("Arn")))
        except Exception as error:  # noqa: BLE001 - every kind becomes one of ours
            raised = error
        failure = failures.translate(raised, asked)
        failure.error.hint = f"{failure.error.hint}; or {_SET_THEM}"
        return failure

    arn = retry.Retry.of(kms).run(attempt)
    if not re.fullmatch(r"arn:aws[a-z-]*:(iam|sts)::\d{12}:.+", arn):
        raise KmsBadAnswer(
            "the answer to GetCallerIdentity cannot be right: Arn is not that of a principal", hint=_SET_THEM
        )
    return as_principal(arn)
