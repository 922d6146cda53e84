"""`destination: file`: the `operator`, the `publication` of one file in one step, and the `storage` that holds it."""
