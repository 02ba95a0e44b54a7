"""A package that cannot be imported."""

raise RuntimeError("the board is\nnot connected")
