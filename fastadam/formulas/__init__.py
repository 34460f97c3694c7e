"""Formulas of every algorithm, as plain scalar functions, and the description of a step. Nothing here imports Numba."""
