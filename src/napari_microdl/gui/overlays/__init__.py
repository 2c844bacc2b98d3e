"""Layers that show concepts on the images."""
