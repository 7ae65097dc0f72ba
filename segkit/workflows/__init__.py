"""One function a command; the only place where the layers are wired together."""
