"""The export formats, one file each. A file that calls `add_format` is a new format."""
