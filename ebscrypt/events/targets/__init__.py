"""Where the events of a rule go.

    kinds       what a target is: its values, checked, and their JSON
    outcome     how a delivery fails, and what may be tried again
    command     a program, the event on its stdin
    webhook     an http(s) POST
    aws         an EventBridge bus, an SNS topic, an SQS queue
    delivery    one of the three, by kind

Each module's `deliver` makes one attempt; trying again is the deliverer's business.
"""
