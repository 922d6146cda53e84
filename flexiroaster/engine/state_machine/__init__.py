"""One execution as a pure state machine: events go in, changes to write and stages to run come out. No I/O.

`execution` takes events and commands, `failure_policy` decides after a failure (`retry_policy`: when to try again),
`rollback` undoes, `state` holds what all of them change.
"""
