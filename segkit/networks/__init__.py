"""U-Nets built from a plan."""
