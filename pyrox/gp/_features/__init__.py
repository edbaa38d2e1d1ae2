"""Feature maps, and the bases that choose their frequencies."""
