"""The safety engine: failure prediction, explanations, anomaly detection, failure policy. Tables and numbers only."""
