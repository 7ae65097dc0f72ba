"""Patches, augmentation, loss and the loop."""
