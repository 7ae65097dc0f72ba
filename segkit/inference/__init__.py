"""From a model and images to label maps."""
