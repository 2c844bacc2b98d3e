"""Foundation models, from scaled images to patch tokens."""
