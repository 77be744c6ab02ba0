"""Layer-wise methods: solve or train one layer after another."""
