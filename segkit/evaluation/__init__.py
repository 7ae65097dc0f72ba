"""Metrics per case, label and region, and their honest summary."""
