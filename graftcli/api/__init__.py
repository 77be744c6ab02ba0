"""The public functions of graftcli, one file per verb; the commands call them too."""
