"""Groups of images with more errors than others, and the properties that define them."""
