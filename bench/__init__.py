"""Benchmarks, run by asv. Of every number lower is better: asv reports only those that rise.

Times are given as multiples of a peer's time, or of what memory allows, taken in turns in the same process: such a
ratio hardly depends on the machine or on what else it is doing, so that a change of it is a change of ours.
"""
