"""A client in a process of its own, to be killed: puts blocks one after another and names each that was answered.

python uploading.py URL ACCESS_KEY_ID SECRET SNAPSHOT SEED…      block N is made of the Nth seed
"""

from __future__ import annotations

import random
import sys

import boto3

from tests.behaviour.ebs_direct.server import BLOCK, put


def main() -> None:
    url, key, secret, snapshot_id, *seeds = sys.argv[1:]
    client = boto3.client(
        "ebs", endpoint_url=url, region_name="us-east-1", aws_access_key_id=key, aws_secret_access_key=secret
    )
    for index, seed in enumerate(seeds):
        put(client, snapshot_id, index, random.Random(int(seed)).randbytes(BLOCK))  # noqa: S311 - the same each run
        sys.stdout.write(f"{index}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
