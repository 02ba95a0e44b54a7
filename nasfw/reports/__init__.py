"""A run in words, tables and pictures."""
