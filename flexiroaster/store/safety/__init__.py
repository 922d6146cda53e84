"""Tables of the safety engine: `risk` models and states, run `history`, `decisions`, `insights`."""
