"""The status page in the outbox: what it shows (`board`) and what it looks like (`render`)."""
