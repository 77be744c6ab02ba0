"""Views of the training images and the cached teacher features for them."""
