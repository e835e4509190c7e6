"""Amazon EBS encryption for any Linux machine.

The floors, lowest first (a floor imports only those above it in this list; ``lint-imports`` holds it):

    errors      the error tree              model       records, ids, units, states
    config      settings                    core        the compiled data path and secret memory
    luks2       header and token            kms         client, unwrap process, embedded KMS
    catalog     what exists                 daemon      the process of one attachment
    control     the use cases               cli         `ebscrypt`
"""
