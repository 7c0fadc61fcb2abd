"""The families of voices that voicekiln converts, and the choice among them."""
