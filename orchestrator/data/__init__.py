"""Sample data: sources (one module a kind), the batches taken from them, the checks on each.

Imported by workers only: these modules use numpy at module level.
"""
