"""Tasks: data, loss and published metric, one data family per module."""
