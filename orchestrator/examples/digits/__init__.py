"""A small convolutional network for handwritten digits, with its data and weights."""
