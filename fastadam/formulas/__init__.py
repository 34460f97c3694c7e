"""Formulas of every algorithm, as plain scalar functions, and what describes a step: no Numba here."""
