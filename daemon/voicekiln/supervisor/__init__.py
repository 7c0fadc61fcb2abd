"""The loop's parts, one per stretch of a voice's way; `voicekiln.service` puts them together.

Only the loop's thread runs this code and only it writes the ledger. Whatever touches a share is handed to `hands`,
so that a network mount that hangs never stops the loop.
"""
