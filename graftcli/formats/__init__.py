"""What is written for other tools to read, each file checked against the network before it gets its name."""
