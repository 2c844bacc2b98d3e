"""The dock *Concept explorer* and its tabs."""
