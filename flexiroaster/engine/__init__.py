"""The engine: the `state_machine` decides, the `driver` writes and starts stages, the `scheduler` finds work.

`leases` keeps the executions of this process; `driven_execution` and `event_loop` are the parts of the driver.
"""
