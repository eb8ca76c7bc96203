"""Example models that the bundled configurations build."""
