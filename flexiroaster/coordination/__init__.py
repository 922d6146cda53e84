"""Coordination between the processes of one installation: locks, heartbeats, cached reads, wake-ups and live events.

These features reduce database load and latency. No correctness guarantee depends on them.
"""
