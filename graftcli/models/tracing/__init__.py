"""A module -> its graph with measured shapes; splitting the graph and joining it again."""
