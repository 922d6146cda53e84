"""How the risk model learns: `training`, `model_selection`, `evaluation`, `replay` and `backtest`."""
