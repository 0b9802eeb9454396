"""Cells in, summary out: scores, differences, advice; never torch."""
