"""The same pipeline over the thousands of fields of plates, shared out among processes."""
