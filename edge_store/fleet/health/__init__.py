"""How the boxes of a fleet are, by their heads and the copies here, and how people come to know."""
