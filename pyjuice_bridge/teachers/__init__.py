"""Teachers: networks, or raw pixels, that give every position of an image a vector."""
