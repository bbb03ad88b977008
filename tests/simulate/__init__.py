"""The simulator, room by room and as a whole."""
