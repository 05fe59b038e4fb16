"""Redis: the only package that knows redis-py. What is kept there is its users' affair."""
