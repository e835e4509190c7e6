"""AWS's wire protocols from the server's side, by the service models that clients have in botocore.

    http         a request and an answer as plain values
    service      one service: which operation a request is for, its parameters, how answers and errors are written
    forms        parameters out of a form (protocols ec2 and query)
    xml          answers as XML (ec2 and query)
    rest         parameters and answers in paths, headers, query strings and bodies (rest-json)
    scalars      single values as text
    constraints  what the model demands of parameters

KMS's own protocol, JSON 1.1, is the embedded KMS's (`ebscrypt.kms.embedded.wire`).
"""
