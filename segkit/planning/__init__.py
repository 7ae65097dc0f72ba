"""From image statistics to a plan."""
