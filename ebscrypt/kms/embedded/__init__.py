"""The embedded KMS: for machines without AWS. Persistent, state-aware, and with AWS's own error types and texts.

    service.py     EmbeddedKms.answer: target and JSON bytes in, status and JSON bytes out; no socket in it
    wire.py        requests checked, answers written, both by botocore's model of KMS
    faults.py      the errors that a client sees
    states.py      which operation a key's state and origin allow: the table of the AWS documentation
    authority.py   who may do what: the root everything, others what a grant allows
    upkeep.py      what is due by the clock: deletions, expiries, rotations
    specs.py       key specs, usages, algorithms
    calls.py       what every operation is given, and how it finds the key that a request names
    keys.py  aliases.py  data_keys.py  grants.py  imports.py  policies.py  rotation.py  tags.py     the operations
    store.py  schema.py  migrations.py  rows.py  material_rows.py  grant_rows.py                    SQLite
    directory.py   for its owner only, and locked by whoever changes what lies beside the database
    root_key.py    the key over all keys: file, systemd credential, or sealed by credential.py (systemd-creds)
    root_change.py  another root key, or another place for it; root_files.py is what a crash leaves of that
    backup.py      export and import under a passphrase; backup_file.py is the file
    material.py    key material, and all other secrets, under the root key
    secrets_kept.py  where in the store such secrets are
    wrapping.py    the wrapping of imported material
    ciphertext.py  ciphertext blobs under key material
    transport.py   reached in process, by botocore's before-send
    http.py        reached over HTTP, from this machine

The formats are drawn in docs/formats/embedded-kms.md and embedded-kms-backup.md.
"""
