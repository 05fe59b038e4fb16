"""What an operator can set: the table of settings, the types of their values, and how they are loaded."""

from gateway.settings.load import SettingsError, load, warnings
from gateway.settings.model import Settings
from gateway.settings.table import SETTINGS, Setting

__all__ = ["SETTINGS", "Setting", "Settings", "SettingsError", "load", "warnings"]
