"""The engine: the `state_machine` decides, the `driver` writes and starts stages, the `scheduler` finds work.

`leases` keeps the executions of this process; `driven` and `event_loop` hold what the driver's loop works on.
"""
