"""Leaf families: what the rows of an input layer's table may be.  One file each."""
