"""The steps of the check, by subject. A step is a function of the check that returns a row."""
