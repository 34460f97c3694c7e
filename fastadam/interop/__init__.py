"""Interoperability: our optimizers and estimators in the form that other libraries expect, one module per library."""
