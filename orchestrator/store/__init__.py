"""The store: content-addressed trees, results by action key, locks, pins, and an index.

The truth is plain files (ADR 1). Import the facade, :class:`orchestrator.store.store.Store`.
"""
