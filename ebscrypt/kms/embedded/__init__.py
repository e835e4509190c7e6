"""The embedded KMS: for machines without AWS. Persistent, state-aware, and with AWS's own error types and texts.

    service.py     EmbeddedKms.answer: target and JSON bytes in, status and JSON bytes out; no socket in it
    wire.py        requests checked, answers written, both by botocore's model of KMS
    faults.py      the errors that a client sees
    states.py      which operation a key's state allows: the table of the AWS documentation
    specs.py       key specs, usages, algorithms
    calls.py       what every operation is given, and how it finds the key that a request names
    keys.py  aliases.py  data_keys.py             the operations
    store.py  schema.py  rows.py                  SQLite
    root_key.py    the key over all keys: file or systemd credential
    material.py    key material under the root key
    ciphertext.py  ciphertext blobs under key material
    transport.py   reached in process, by botocore's before-send
    http.py        reached over HTTP, from this machine

The formats are drawn in docs/formats/embedded-kms.md.
"""
