"""Running actions: a warm server that forks one process per action, and the local executor."""
