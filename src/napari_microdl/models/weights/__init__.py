"""Weights of published models: where they lie, how they are read, what their keys mean."""
