"""Layers that voice families share, written from their papers; torch only."""
