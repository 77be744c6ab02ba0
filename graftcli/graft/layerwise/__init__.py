"""Methods that solve or train one layer after another."""
