"""Which parts of a model could be replaced, and which replacements to take under a budget."""
