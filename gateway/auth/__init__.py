"""Who asks, and what that caller may ask for. Knows neither routes nor Redis."""
