"""The stages, one module each; `catalogue` finds them by name."""
