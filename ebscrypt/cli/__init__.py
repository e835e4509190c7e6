"""`ebscrypt`: arguments → control → output.

Data goes to stdout, talk to stderr. `main` is the entry, `commands` the table of commands, and each command is a file
of its name with ``configure`` (its arguments) and ``run``. A command's file is imported only when that command runs.
"""
