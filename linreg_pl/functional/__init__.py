"""Pure functions on tensors: the mathematics, without state."""
