"""The formulas compiled for the CPU."""
