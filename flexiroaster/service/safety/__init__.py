"""The safety engine over the stored history: `risk` before a run, `decisions`, `insights`, and background learning.

`history_projection` updates risk states from ended runs, `risk_state_cache` serves them. `learner` and `training`
run in the background.
"""
