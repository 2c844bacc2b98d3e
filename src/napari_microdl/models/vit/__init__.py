"""One vision transformer for all families, told apart by its configuration."""
