"""Streamed int8 C: a network executed row by row, every map keeping only the rows that the next operation needs."""
