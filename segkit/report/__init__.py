"""HTML and PNG for people."""
