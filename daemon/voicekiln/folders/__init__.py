"""The way of a file through the folders: seen, settled, spooled, published, swept. Knows no models."""
