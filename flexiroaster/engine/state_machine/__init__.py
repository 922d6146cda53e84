"""One execution as a pure state machine: events go in, changes to write and stages to run come out. No I/O.

`execution` takes events, `commands` applies requests from users, `failure_policy` decides after a failure, `rollback`
undoes, `state` holds what all of them change.
"""
