"""Starts and stops VideoSDK recordings for callers who must not hold the VideoSDK token."""

__version__ = "0.1.0"
