"""HTTP faces over control, for clients that speak AWS's protocols: EC2, EBS direct, KMS, CloudFormation, STS.

protocol/    requests read and answers written by botocore's own service models
signature    who signed a request (SigV4), checked against `access_keys`
gateway      one request from bytes to bytes: service, signature, parameters, operation, answer
server       the gateway over HTTP and TLS: limits, health, `metrics`
call         what an operation is given; errors: what it raises
ec2/ ebs/ cloudformation/ sts kms    the operations, by API action
"""
