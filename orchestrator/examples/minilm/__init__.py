"""The sentence encoder all-MiniLM-L6-v2, with sentences to run it on."""
