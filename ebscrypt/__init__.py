"""Amazon EBS encryption for any Linux machine.

The floors, lowest first (a floor imports only those above it in this list; ``lint-imports`` holds it):

    errors      the error tree              durable     files that survive a power cut
    model       records, ids, units, states config      settings
    core        the compiled data path      luks2       header and token
    kms         client, unwrap, embedded    catalog     what exists
    daemon      one attachment's process    events      patterns, rules, targets
    control     the use cases               cli         `ebscrypt`
"""
