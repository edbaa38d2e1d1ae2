"""The demonstration: `python -m pyrox`."""
