"""What a pack is worth: depth, compute and quality on sound that training never saw, measured through Bellis itself."""
