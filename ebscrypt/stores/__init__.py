"""Where snapshots lie: blocks named by their SHA-256, manifests that list them, in a directory or in S3.

    names        how things in a store are called               objects     the plug point: bytes at paths
    manifest     a snapshot's manifest: bytes ↔ values          directory   objects in a directory
    block_list   which blocks a snapshot has                    s3          objects in an S3-compatible bucket
    witness      what vouches for a manifest                    store       blocks, manifests and pins over objects
    transfer     many blocks at once, in bounded memory         publish     new snapshots and readers, beside sweeps
    addresses    settings → an open store                       sweep       removing what no snapshot needs

docs/formats/snapshot.md has the formats, docs/decisions/0040-*.md why a sweep is safe beside everything else.
"""
