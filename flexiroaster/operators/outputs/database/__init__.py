"""`destination: database`: the `operator`, its write `modes`, the `tables` they create, and the `ledger` of effects.

`destination` is the connection and transaction that all of them use.
"""
