"""The commands, a module for each group of them; `voicekiln.cli` puts them together.

Each module has a function `add` that describes its commands to the parser, beside the functions that carry them out.
A command takes the options, speaks through `terminal`, and returns the exit status.
"""
