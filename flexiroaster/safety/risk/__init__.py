"""How likely a run is to fail, and why: `features` of a start, the `model`, its `calibration` and `explanation`.

`state` is the compact memory of past runs, `history` a table of them, `assessment` the answer before a run.
"""
