"""What a network is: where it comes from, where it can be cut, what pairs with what. Knows no images."""
