"""Stacks: resources made, changed and deleted as a CloudFormation template says, one operation at a time.

operations   create, update, delete, deploy; change sets; what a crash interrupted goes on
planning     what a template would change
forward      makes that so, resource by resource            backward   takes it back after a failure
removal      removes what is not wanted any more            ledger     writes each step down, before and after it
values       what a template's functions are evaluated in
kinds/       the types of resources there are
"""
