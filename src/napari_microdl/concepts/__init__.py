"""Concepts: the dictionary, activations of units, and how both are kept, exported and painted."""
