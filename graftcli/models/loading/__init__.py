"""Load networks from model specs, checkpoints and graftcli outputs."""
