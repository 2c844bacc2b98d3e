"""The dock *Concept workflow* and its steps."""
