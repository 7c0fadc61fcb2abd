"""The worker process: the messages it speaks, the parent that keeps it, the child itself."""
