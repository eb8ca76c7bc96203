"""The command line: verbs only; what they do lives elsewhere."""
