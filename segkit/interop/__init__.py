"""Other programs' models and files, turned into segkit's and back."""
