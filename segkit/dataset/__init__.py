"""What a dataset is: its description, labels, cases, splits and files."""
