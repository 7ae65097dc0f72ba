"""segkit: segmentation models that plan, train, predict and evaluate themselves."""

__version__ = "0.1.0"
