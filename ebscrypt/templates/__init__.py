"""CloudFormation's template language, with nothing of stacks in it: text in, values out.

reading     YAML with the short tags, or JSON, as plain values; what CloudFormation refuses is refused
template    the sections of a template as records, checked for what can be known without values
parameters  values for the parameters: types, constraints, previous values
functions   the intrinsic functions and conditions, evaluated
references  which resource refers to which, and in which order that lets them be made
"""
