"""Benchmarks that compare what nasfw computes with the plain operation and with the published technique."""
