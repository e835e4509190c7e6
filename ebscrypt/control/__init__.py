"""The use cases, one file each: what the command line and the APIs can ask for, and what keeps it safe.

    site         what a command works on: settings, catalog, KMS          recover    what a crash interrupted
    create, delete, describe, resize, tags, check, rebuild                the life of a volume
    rewrap, reencrypt, reencrypting                                       its keys; reencrypting is what goes on
    attach, detach, unit                                                  its attachments; unit is for systemd
    doctor, doctor_key, audit                                             this machine, a KMS key, what was asked of KMS

below them:

    backing      the file or block device under a volume                  sidecar    what describes a plain volume
    remains      taking a volume's traces away                            causes     reasons, in the words of events
    failed_creation  the record of one that failed, removed
    runtime      how a volume is attached, seen from outside              process    the daemon where systemd is not
    holders      who uses a device or file                                systemd    the daemon's unit where it is
    leftovers    what a dead daemon left in the kernel                    links      /dev/disk/by-id without udev
    locks        one command at a time on a volume                        operation  on a volume that is there
    faultpoints  where the crash tests strike                             background  a command that goes on by itself
"""
