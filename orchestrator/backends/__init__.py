"""Runtimes behind one interface; see ``base``."""
