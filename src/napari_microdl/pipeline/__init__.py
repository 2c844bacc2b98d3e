"""A run from fields to concept activations, its stages, its files, and what it will take."""
