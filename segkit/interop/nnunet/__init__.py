"""nnU-Net v2: its plans, dataset.json, checkpoints and results folders."""
