"""Neighbours: our optimizers where other libraries expect their own, one module a library."""
