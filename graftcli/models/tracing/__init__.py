"""Trace a module to a graph with measured shapes; split the graph into blocks and join them."""
