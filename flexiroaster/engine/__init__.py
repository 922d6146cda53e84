"""The engine: the `state_machine` decides, the `driver` writes and starts stages, the `scheduler` finds work.

`leases` keeps the executions of this process; the driver consists of an `event_loop` and a `driven_execution` each.
"""
