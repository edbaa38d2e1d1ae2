"""How fast paths are, against every peer and against the machine: `make bench`."""
