"""Many blocks of one operator at once: a sweep over layers, blocks or parameters."""
