"""Neighbours: our optimizers and estimators where other libraries expect their own, one module a library."""
