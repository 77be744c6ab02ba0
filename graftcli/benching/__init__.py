"""The models and files that `graftcli bench` measures."""
