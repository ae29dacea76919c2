"""What differs between images, text and tables."""
