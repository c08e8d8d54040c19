"""Networks: the protocol they follow, their layers, and the table that builds them by name."""
