"""KMS: the client, the way of a wrapped key to its plaintext, and a KMS of our own for those without AWS.

    client.py          KmsClient: typed calls, one error per cause, deadlines        imports boto3, lazily
    endpoint.py        which KMS: AWS, a URL, or the embedded one in this process
    failures.py        what botocore raises → errors.py, and what may be tried again
    retry.py           attempts, backoff, deadline: the one layer that retries
    results.py         frozen answers, checked before anyone uses them
    names.py           key ids, aliases and their ARNs
    context.py         the encryption context: checked, and in one canonical form
    principals.py      who may use a key under a grant, and who may end it
    hints.py           what to do about each refusal
    audit.py           a record of each request: audit_record.py makes it, audit_file.py keeps it
    unwrap.py          for the daemon: starts the unwrap process                     imports no boto3
    unwrap_process.py  short-lived: Decrypt, fill secret memory, exit
    embedded/          the KMS that needs no account

Nothing is imported here, so that the daemon, which needs `ebscrypt.kms.unwrap` only, loads only that.
"""
