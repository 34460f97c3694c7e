"""Benchmarks, run by asv. Lower is better for every number, since asv only reports increases.

Times are multiples of the time of another library, or of the time that memory allows, measured in turns in the same
process. Such a ratio hardly depends on the machine or its load, so that a change of it is a change of fastadam.
"""
