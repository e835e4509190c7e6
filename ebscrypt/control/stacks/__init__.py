"""Stacks: resources made, changed and deleted as a CloudFormation template says, one operation at a time.

    operations   create, update, delete, deploy; what a crash interrupted goes on
    requests     the same as the API asks for it, and change sets: begun now, done by a process of its own

below them:

    planning     what a template would change               values     what a template's functions are evaluated in
    forward      makes that so, resource by resource        backward   takes it back after a failure
    removal      removes what is not wanted any more        ledger     writes each step down before the next
    kinds/       the types of resources there are
"""
