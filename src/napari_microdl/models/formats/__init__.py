"""A lab's own weights: folders that transformers wrote, and files that a small TOML describes."""
