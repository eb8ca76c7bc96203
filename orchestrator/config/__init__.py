"""Composing configurations with Hydra and checking them against the typed schema."""
