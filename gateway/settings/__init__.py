"""What an operator can set: the table of settings, the types of their values, and how they are loaded."""
