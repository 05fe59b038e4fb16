"""The HTTP API: the only package, with the composition root, that knows Litestar."""
