"""Variants to one graph of actions, and the keys of those actions. Imports nothing heavy."""
