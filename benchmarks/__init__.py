"""How fast and how small voicekiln is, measured; see `__main__`."""
