"""Benchmarks: ratios within one run, with versions and machine; never part of the tests."""
